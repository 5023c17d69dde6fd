//! Statements put to SQLite.

use async_trait::async_trait;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, Row, params_from_iter};

use super::{SqliteLedger, failed};
use crate::LedgerError;
use crate::selection::Selection;
use crate::statements::{Cell, Cells, Statement, Statements};

const MARK: char = '?';

#[async_trait]
impl Statements for SqliteLedger {
    async fn read(&self, what: &'static str, statement: Statement) -> Result<Vec<Cells>, LedgerError> {
        self.run(move |connection| {
            read(connection, statement.selection(MARK)).map_err(|error| failed(what, error))
        })
        .await
    }

    async fn write(
        &self,
        what: &'static str,
        statements: Vec<Statement>,
    ) -> Result<Option<Vec<u64>>, LedgerError> {
        self.run(move |connection| write(connection, statements).map_err(|error| failed(what, error)))
            .await
    }
}

fn read(connection: &Connection, selection: Selection) -> rusqlite::Result<Vec<Cells>> {
    let Selection { sql, values } = selection;
    let mut select = connection.prepare_cached(&sql)?;
    let columns = select.column_count();
    let rows = select.query_map(params_from_iter(values), |row| cells(row, columns))?;
    rows.collect()
}

fn write(connection: &mut Connection, statements: Vec<Statement>) -> rusqlite::Result<Option<Vec<u64>>> {
    // Whoever reads first and writes then would be refused where another process wrote meanwhile.
    let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    let mut changed = Vec::with_capacity(statements.len());
    for statement in statements {
        let must_change = statement.must_change();
        let Selection { sql, values } = statement.selection(MARK);
        let rows = transaction
            .prepare_cached(&sql)?
            .execute(params_from_iter(values))?;
        if must_change && rows == 0 {
            transaction.rollback()?;
            return Ok(None);
        }
        changed.push(rows as u64);
    }
    transaction.commit()?;
    Ok(Some(changed))
}

fn cells(row: &Row<'_>, columns: usize) -> rusqlite::Result<Cells> {
    let cell = |index| {
        Ok(match row.get_ref(index)? {
            ValueRef::Null => Cell::Nothing,
            ValueRef::Integer(number) => Cell::Number(number),
            // No column of ours has it; what reads the row will say so.
            ValueRef::Real(number) => Cell::Text(number.to_string()),
            ValueRef::Text(text) => Cell::Text(String::from_utf8_lossy(text).into_owned()),
            ValueRef::Blob(bytes) => Cell::Bytes(bytes.to_owned()),
        })
    };
    (0..columns)
        .map(cell)
        .collect::<rusqlite::Result<_>>()
        .map(Cells::new)
}
