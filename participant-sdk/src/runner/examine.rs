//! What the resources hold and how they are set up, when the coordinator asks for an operator.

use super::{LIST_MAX, Registered, Runner};
use crate::finding::{Finding, Severity};
use crate::resource::{EndedAlone, Prepared, Retry};
use crate::wire;
use futures_util::future::{BoxFuture, FutureExt};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use tokio::time::timeout;
use unanimous_proto::v1;
use v1::participate_request::Body as Say;

/// Resources that are being looked at. Whoever asks more often gets no answer.
const EXAMINED_MAX: usize = 256;

impl Runner {
    pub(super) fn examine(&mut self, examination: u64) {
        for registered in &self.resources {
            if self.examinations.len() >= EXAMINED_MAX {
                tracing::warn!("an examination was ignored: too many are under way");
                return;
            }
            self.examinations.push(look(examination, registered));
        }
    }

    pub(super) fn on_examined(&mut self, examined: v1::Examined) {
        self.say(Say::Examined(examined));
    }
}

fn look(examination: u64, registered: &Registered) -> BoxFuture<'static, v1::Examined> {
    let (id, number) = (registered.id.clone(), registered.number);
    let resource = Arc::clone(&registered.resource);
    // The making of the future may panic as well.
    let looking = AssertUnwindSafe(async move {
        let mut listed = Arc::clone(&resource).list().await?;
        listed.retain(number);
        let mut findings = resource.findings().await?;
        findings.extend(unheard(&listed.alone));
        Ok((listed.prepared, findings))
    });
    Box::pin(async move {
        let seen: Result<(Vec<Prepared>, Vec<Finding>), String> =
            match timeout(LIST_MAX, looking.catch_unwind()).await {
                Ok(Ok(Ok(seen))) => Ok(seen),
                Ok(Ok(Err(Retry { why }))) => Err(why),
                Ok(Err(_)) => Err("it panicked".to_owned()),
                Err(_) => Err("it does not answer".to_owned()),
            };
        wire::examined(examination, &id, seen)
    })
}

/// Branches that ended alone, of which a coordinator has not said yet that they are on its list.
fn unheard(alone: &[EndedAlone]) -> Option<Finding> {
    let EndedAlone { branch, result, why } = alone.first()?;
    Some(Finding {
        code: "ENDED_ALONE",
        severity: Severity::Warning,
        what: format!(
            "{} branches ended alone and are on no coordinator's record yet; the first: {branch}, \
             {result:?}: {why}",
            alone.len()
        ),
        why: "whether that agrees with the rest of their transactions is not known yet".to_owned(),
        next: format!("unanimous tx describe {}", branch.gtrid),
    })
}
