//! What was measured, as it is kept in `results/*.json`.

use std::{collections::BTreeMap, fs, path::Path};

use serde::{Deserialize, Serialize};

use crate::scenario::{Measure, Scenario, SystemId};

/// Everything that one page shows.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Results {
    pub(crate) machine: BTreeMap<String, String>,
    pub(crate) versions: BTreeMap<String, String>,
    pub(crate) records: Vec<Record>,
}

/// One system, once.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) scenario: String,
    pub(crate) system: String,
    pub(crate) repetition: u32,
    /// Seconds since 1970.
    pub(crate) at: u64,
    /// By the key of the measure.
    pub(crate) values: BTreeMap<String, f64>,
    pub(crate) checks: Checks,
    /// Why there are no values.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) failed: Option<String>,
}

/// What must be nothing.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Checks {
    pub(crate) published: u64,
    pub(crate) received: u64,
    pub(crate) missing: u64,
    pub(crate) duplicates: u64,
    pub(crate) foreign: u64,
    pub(crate) unsettled: u64,
    /// What the server still held after the run; absent when it cannot be asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) left: Option<u64>,
}

impl Checks {
    pub(crate) fn are_clean(&self) -> bool {
        let Self {
            missing,
            duplicates,
            foreign,
            unsettled,
            left,
            ..
        } = self;
        missing + duplicates + foreign + unsettled + left.unwrap_or(0) == 0
    }
}

/// What the repetitions say together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Summary {
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) most: f64,
}

impl Results {
    /// Which runs failed, or lost, doubled or left something.
    pub(crate) fn unsound(&self) -> Vec<String> {
        let is_unsound = |record: &&Record| record.failed.is_some() || !record.checks.are_clean();
        let unsound = self.records.iter().filter(is_unsound);
        unsound
            .map(|record| format!("{} of {}", record.scenario, record.system))
            .collect()
    }

    pub(crate) fn read(path: &Path) -> anyhow::Result<Self> {
        Ok(serde_json::from_slice(&fs::read(path)?)?)
    }

    pub(crate) fn write(&self, path: &Path) -> anyhow::Result<()> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let mut text = serde_json::to_string_pretty(self)?;
        text.push('\n');
        Ok(fs::write(path, text)?)
    }

    pub(crate) fn of(&self, scenario: &str, system: SystemId) -> impl Iterator<Item = &Record> {
        self.records
            .iter()
            .filter(move |record| record.scenario == scenario && record.system == system.name())
    }

    pub(crate) fn summary(
        &self,
        scenario: &str,
        system: SystemId,
        measure: Measure,
    ) -> Option<Summary> {
        let values = self
            .of(scenario, system)
            .filter_map(|record| record.values.get(measure.key()).copied());
        Summary::of(values.collect())
    }

    /// The lower of the two limits.
    pub(crate) fn limit(&self, scenario: &Scenario, measure: Measure) -> Option<(SystemId, f64)> {
        [SystemId::Echo, SystemId::Disk]
            .into_iter()
            .filter_map(|limit| {
                let summary = self.summary(scenario.name, limit, measure)?;
                Some((limit, summary.median))
            })
            .min_by(|a, b| a.1.total_cmp(&b.1))
    }
}

impl Summary {
    fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let (least, most) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median = if values.len().is_multiple_of(2) {
            f64::midpoint(values[middle - 1], values[middle])
        } else {
            values[middle]
        };
        Some(Self {
            median,
            least,
            most,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_one_or_between_the_middle_two() {
        let median = |values| Summary::of(values).map(|summary| summary.median);
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(vec![]), None);
    }
}
