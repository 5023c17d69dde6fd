//! Statements that every database understands, and what they find. A store written with them is one for all databases.

use async_trait::async_trait;

use crate::LedgerError;
use crate::rows::{foreign, number};
use crate::selection::{Selection, Value};

/// SQL whose places are written `?`, with what belongs there, first to last.
#[derive(Debug)]
pub(crate) struct Statement {
    sql: String,
    values: Vec<Value>,
    must_change: bool,
}

impl Statement {
    pub(crate) fn new(sql: impl Into<String>, values: impl IntoIterator<Item = Value>) -> Self {
        Self {
            sql: sql.into(),
            values: values.into_iter().collect(),
            must_change: false,
        }
    }

    /// What comes with it is undone unless it changes a row.
    pub(crate) fn that_changes(mut self) -> Self {
        self.must_change = true;
        self
    }

    pub(crate) fn must_change(&self) -> bool {
        self.must_change
    }

    /// With its places numbered behind the database's mark.
    pub(crate) fn selection(self, mark: char) -> Selection {
        let mut sql = String::with_capacity(self.sql.len() + 2 * self.values.len());
        let mut place = 0;
        for char in self.sql.chars() {
            if char == '?' {
                place += 1;
                sql += &format!("{mark}{place}");
            } else {
                sql.push(char);
            }
        }
        debug_assert_eq!(place, self.values.len(), "{sql}");
        Selection {
            sql,
            values: self.values,
        }
    }
}

/// What stands in one column of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Cell {
    Nothing,
    Text(String),
    Number(i64),
    Bytes(Vec<u8>),
}

/// A row, read column by column.
pub(crate) struct Cells(std::vec::IntoIter<Cell>);

impl Cells {
    pub(crate) fn new(cells: Vec<Cell>) -> Self {
        Self(cells.into_iter())
    }

    fn next(&mut self) -> Cell {
        self.0.next().unwrap_or(Cell::Nothing)
    }

    pub(crate) fn maybe_text(&mut self, what: &'static str) -> Result<Option<String>, LedgerError> {
        match self.next() {
            Cell::Nothing => Ok(None),
            Cell::Text(text) => Ok(Some(text)),
            other @ (Cell::Number(_) | Cell::Bytes(_)) => Err(foreign(what, format!("{other:?}"))),
        }
    }

    pub(crate) fn text(&mut self, what: &'static str) -> Result<String, LedgerError> {
        let text = self.maybe_text(what)?;
        text.ok_or_else(|| foreign(what, "nothing".to_owned()))
    }

    pub(crate) fn maybe_number<T: TryFrom<i64>>(
        &mut self,
        what: &'static str,
    ) -> Result<Option<T>, LedgerError> {
        match self.next() {
            Cell::Nothing => Ok(None),
            Cell::Number(value) => number(what, value).map(Some),
            other @ (Cell::Text(_) | Cell::Bytes(_)) => Err(foreign(what, format!("{other:?}"))),
        }
    }

    pub(crate) fn number<T: TryFrom<i64>>(&mut self, what: &'static str) -> Result<T, LedgerError> {
        let number = self.maybe_number(what)?;
        number.ok_or_else(|| foreign(what, "nothing".to_owned()))
    }

    pub(crate) fn bytes(&mut self, what: &'static str) -> Result<Vec<u8>, LedgerError> {
        match self.next() {
            Cell::Bytes(bytes) => Ok(bytes),
            other @ (Cell::Nothing | Cell::Text(_) | Cell::Number(_)) => {
                Err(foreign(what, format!("{other:?}")))
            }
        }
    }
}

/// A database that statements can be put to.
#[async_trait]
pub(crate) trait Statements: Send + Sync {
    /// The rows that are found. `what` names the failure.
    async fn read(&self, what: &'static str, statement: Statement) -> Result<Vec<Cells>, LedgerError>;

    /// How many rows each has changed, all or none: none, and so undone, when one that must change a row did not.
    async fn write(
        &self,
        what: &'static str,
        statements: Vec<Statement>,
    ) -> Result<Option<Vec<u64>>, LedgerError>;

    /// Whether the one statement changed anything.
    async fn change(&self, what: &'static str, statement: Statement) -> Result<bool, LedgerError> {
        let changed = self.write(what, vec![statement]).await?;
        Ok(changed.is_some_and(|rows| rows.iter().any(|rows| *rows > 0)))
    }

    /// The first row that is found.
    async fn one(&self, what: &'static str, statement: Statement) -> Result<Option<Cells>, LedgerError> {
        Ok(self.read(what, statement).await?.into_iter().next())
    }
}

pub(crate) fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}

pub(crate) fn maybe_text(text: Option<&str>) -> Value {
    Value::MaybeText(text.map(str::to_owned))
}

pub(crate) fn count(number: u64) -> Value {
    Value::Number(crate::rows::as_sql(number))
}

pub(crate) fn maybe_count(number: Option<u64>) -> Value {
    Value::MaybeNumber(number.map(crate::rows::as_sql))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_numbered_behind_the_mark() {
        let statement = Statement::new("a = ? AND b > ?", [text("x"), count(1)]);
        assert_eq!(statement.selection('$').sql, "a = $1 AND b > $2");
    }

    #[test]
    fn a_column_of_another_kind_is_named() {
        let mut cells = Cells::new(vec![Cell::Text("x".to_owned()), Cell::Nothing]);
        assert!(matches!(
            cells.number::<u64>("bytes"),
            Err(LedgerError::Foreign { what: "bytes", .. })
        ));
        assert!(matches!(cells.maybe_text("name"), Ok(None)));
        assert!(cells.text("name").is_err());
    }
}
