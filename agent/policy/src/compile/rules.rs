//! Numbers and names of rules.

use std::collections::HashMap;
use std::sync::Arc;

use crate::image::RuleEntry;
use crate::model::{Model, Rule};
use crate::numbers::{Digest, Exhausted, Numbers};

/// Numbers and names of the rules of the last policy.
#[derive(Debug, Default)]
pub(super) struct RuleMemo {
    /// By the rule's address in memory, which is nobody else's as long as the rule is kept.
    known: HashMap<usize, (Arc<Rule>, u32, Arc<RuleEntry>)>,
}

impl RuleMemo {
    /// The number and entry of every rule, in the model's order.
    pub(super) fn entries(
        &mut self,
        model: &Model,
        numbers: &mut Numbers,
    ) -> Result<Vec<(u32, Arc<RuleEntry>)>, Exhausted> {
        let mut known = HashMap::with_capacity(model.rules().len());
        // New numbers go by content, so that they do not depend on the order of files.
        let mut new: Vec<(Digest, &Arc<Rule>)> = Vec::new();
        for rule in model.rules() {
            match self.known.remove(&address(rule)) {
                Some(entry) => _ = known.insert(address(rule), entry),
                None => new.push((fingerprint(rule), rule)),
            }
        }
        new.sort_by_key(|(digest, _)| *digest);
        for (digest, rule) in new {
            let entry = RuleEntry {
                name: rule.name.clone(),
                tier: rule.tier,
                action: rule.action,
                location: rule.location.clone(),
                text: rule.to_string(),
            };
            known.insert(address(rule), (Arc::clone(rule), numbers.rule(digest)?, Arc::new(entry)));
        }
        self.known = known;
        let entry = |rule| self.known.get(&address(rule)).map(|(_, number, e)| (*number, Arc::clone(e)));
        Ok(model.rules().iter().filter_map(entry).collect())
    }
}

fn address(rule: &Arc<Rule>) -> usize {
    Arc::as_ptr(rule).addr()
}

/// What a rule says, wherever it is written.
fn fingerprint(rule: &Rule) -> Digest {
    let name = rule.name.as_deref().unwrap_or_default();
    let named = if rule.name.is_some() { "named" } else { "" };
    Digest::of([named.as_bytes(), name.as_bytes(), rule.to_string().as_bytes()])
}
