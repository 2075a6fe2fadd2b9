//! The commit of an import, and the audit line about it.

use std::sync::Arc;

use proto::Reference;

use crate::store::{Import, Imported, StoreError, Turn};
use crate::sys;
use crate::trust::{Arrival, Audit};

/// What the audit says of an arrival: how it came, who brought it, by which rule.
pub type Line = (Arrival, String, String);

/// Makes an image visible and writes that down, both to the end: a host that cuts its connection in the middle, or a client that goes, is not left out.
/// Whoever gives a name away only in turn has the turn until then.
pub async fn commit<I: Import>(
    audit: &Arc<Audit>,
    import: I,
    name: Option<Reference>,
    (how, who, rule): Line,
    turn: Option<Turn>,
) -> Result<Imported, StoreError> {
    let audit = audit.clone();
    sys::to_the_end(async move {
        let _turn = turn;
        let imported = import.commit().await?;
        audit.arrived(how, &who, name.as_ref(), &imported, &rule);
        Ok(imported)
    })
    .await
}
