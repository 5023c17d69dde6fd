//! Statements put to Postgres.

use async_trait::async_trait;
use deadpool_postgres::Client;
use deadpool_postgres::tokio_postgres::types::Type;
use deadpool_postgres::tokio_postgres::{Error, Row};
use tokio::time::timeout;

use super::fault::Fault;
use super::{PostgresLedger, bound, select};
use crate::LedgerError;
use crate::statements::{Cell, Cells, Statement, Statements};

const MARK: char = '$';

#[async_trait]
impl Statements for PostgresLedger {
    async fn read(&self, what: &'static str, statement: Statement) -> Result<Vec<Cells>, LedgerError> {
        let cannot = |fault: Fault| fault.while_open(what);
        let client = self.client().await.map_err(cannot)?;
        let done = timeout(self.limit, select(&client, &statement.selection(MARK))).await;
        let rows = self.settled(client, done).map_err(cannot)?;
        let read = |row| cells(row).map_err(|error| cannot(Fault::of(&self.address, &error)));
        rows.iter().map(read).collect()
    }

    async fn write(
        &self,
        what: &'static str,
        statements: Vec<Statement>,
    ) -> Result<Option<Vec<u64>>, LedgerError> {
        let cannot = |fault: Fault| fault.while_open(what);
        let mut client = self.client().await.map_err(cannot)?;
        let done = timeout(self.limit, write(&mut client, statements)).await;
        self.settled(client, done).map_err(cannot)
    }
}

async fn write(client: &mut Client, statements: Vec<Statement>) -> Result<Option<Vec<u64>>, Error> {
    let transaction = client.transaction().await?;
    let mut changed = Vec::with_capacity(statements.len());
    for statement in statements {
        let must_change = statement.must_change();
        let selection = statement.selection(MARK);
        let prepared = transaction.prepare_cached(&selection.sql).await?;
        let rows = transaction.execute(&prepared, &bound(&selection)).await?;
        if must_change && rows == 0 {
            transaction.rollback().await?;
            return Ok(None);
        }
        changed.push(rows);
    }
    transaction.commit().await?;
    Ok(Some(changed))
}

/// Our tables hold texts, whole numbers and bytes.
fn cells(row: &Row) -> Result<Cells, Error> {
    let cell = |(index, kind): (usize, &Type)| {
        Ok(match *kind {
            Type::INT8 => row.try_get::<_, Option<i64>>(index)?.map(Cell::Number),
            Type::BYTEA => row.try_get::<_, Option<Vec<u8>>>(index)?.map(Cell::Bytes),
            _ => row.try_get::<_, Option<String>>(index)?.map(Cell::Text),
        }
        .unwrap_or(Cell::Nothing))
    };
    let kinds = row.columns().iter().map(|column| column.type_()).enumerate();
    kinds.map(cell).collect::<Result<_, _>>().map(Cells::new)
}
