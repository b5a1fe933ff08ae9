//! What of a node is not for pods, in Kubernetes' notation: `cpu=200m,memory=500Mi`.

use proto::quantity::Quantity;

/// What of a node is not for pods.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reserved {
    /// Of processors, in thousandths.
    pub cpu_milli: i64,
    /// Bytes.
    pub memory: i64,
    /// Bytes on disk.
    pub ephemeral_storage: i64,
    /// Processes and threads.
    pub processes: i64,
}

impl std::ops::Add for Reserved {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            cpu_milli: self.cpu_milli.saturating_add(other.cpu_milli),
            memory: self.memory.saturating_add(other.memory),
            ephemeral_storage: self.ephemeral_storage.saturating_add(other.ephemeral_storage),
            processes: self.processes.saturating_add(other.processes),
        }
    }
}

/// Text that says nothing of what is reserved.
#[derive(Debug, thiserror::Error)]
#[error(
    "\"{part}\" reserves nothing: {reason}; write cpu=200m,memory=500Mi,ephemeral-storage=1Gi,pid=1000"
)]
pub struct InvalidReserve {
    part: String,
    reason: String,
}

impl std::str::FromStr for Reserved {
    type Err = InvalidReserve;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut reserved = Self::default();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let invalid = |reason: String| InvalidReserve { part: part.to_owned(), reason };
            let (name, amount) =
                part.split_once('=').ok_or_else(|| invalid("it has no \"=\"".to_owned()))?;
            let amount = Quantity::parse(amount).map_err(|error| invalid(error.to_string()))?;
            if amount.is_negative() {
                return Err(invalid("it is below zero".to_owned()));
            }
            match name {
                "cpu" => reserved.cpu_milli = amount.milli_value(),
                "memory" => reserved.memory = amount.value(),
                "pid" => reserved.processes = amount.value(),
                "ephemeral-storage" => reserved.ephemeral_storage = amount.value(),
                other => return Err(invalid(format!("\"{other}\" cannot be reserved"))),
            }
        }
        Ok(reserved)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_reserved_is_read_as_kubernetes_writes_it() {
        let read = |text: &str| text.parse::<Reserved>();
        let all = "cpu=200m,memory=500Mi, ephemeral-storage=1Gi,pid=1000";
        let expected = Reserved {
            cpu_milli: 200,
            memory: 500 << 20,
            ephemeral_storage: 1 << 30,
            processes: 1000,
        };
        assert_eq!(read(all).unwrap(), expected);
        assert_eq!(read("").unwrap(), Reserved::default());
        for text in ["cpu", "cpu=x", "cpu=-1", "gpu=1"] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains(text) && error.contains("write cpu=200m"), "{error}");
        }
    }
}
