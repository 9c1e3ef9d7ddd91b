//! What the processes of a job say to each other beside rows: one line of JSON per message.

use std::io::{BufRead, BufReader, Read};
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tidemill_model::checkpoint::{Manifest, PartManifest, SplitState};
use tidemill_model::{Fault, FaultKind};

use super::wire::Wire;
use crate::metrics::Holder;
use crate::upgrade::NewComponent;

/// Longest message: a manifest, with the positions of very many splits.
const MESSAGE_BYTES_MAX: u64 = 1 << 30;

/// From the leader to the others.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Order {
    /// How and from where the job starts.
    Start(Box<Start>),
    /// I am still there.
    Ping,
    /// Open no ticks, and say how far you are.
    Freeze { number: u64 },
    /// The barrier is at this tick; say when you know. Of what is stored you may rely on what you have stored for
    /// checkpoint `base`.
    Barrier { number: u64, tick: u64, native: bool, base: Option<u64> },
    /// All know the barrier: go on.
    Thaw,
    /// What you have prepared up to this checkpoint may become visible.
    Commit { number: u64 },
    /// Open this component; say whether it fits.
    Prepare(Component),
    /// Go over to what was prepared, on trial; say whether it works.
    Swap,
    /// It works everywhere, or it does not; say when all is settled.
    Verdict { keep: bool },
    /// The job has failed.
    Abort(Told),
    /// The job ends here: a checkpoint holds all that it did.
    Halt,
    /// Sources end at this tick.
    Stop { tick: u64 },
    /// The job has ended well.
    Finish,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Start {
    pub generation: u64,
    /// Where each process takes connections of others.
    pub addresses: Vec<String>,
    /// Worker threads of each process.
    pub threads: usize,
    /// By node of the plan.
    pub splits: Vec<Vec<SplitState>>,
    pub from: Option<Manifest>,
    /// Components that have taken over since the pipeline was read.
    pub components: Vec<Component>,
    /// What is given up of it.
    pub dropped: Vec<String>,
    /// The leader's clock at tick 0, ms since the epoch.
    pub start_ms: i64,
    /// A process that has not been heard of for so long is lost.
    pub silence_ms: u64,
}

/// A component for a node.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Component {
    pub node: String,
    /// In hex.
    pub bytes: String,
    pub dropped: Vec<String>,
}

impl From<&NewComponent> for Component {
    fn from(component: &NewComponent) -> Self {
        let digit = |nibble: u8| char::from(b"0123456789abcdef"[usize::from(nibble)]);
        let bytes = component.bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect();
        Self { node: component.node.clone(), bytes, dropped: component.dropped.clone() }
    }
}

impl Component {
    pub fn read(self) -> Result<NewComponent, Fault> {
        let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
        let pairs = self.bytes.as_bytes().chunks(2);
        let bytes: Option<Vec<u8>> = pairs.map(|pair| Some(digit(pair[0])? << 4 | digit(*pair.get(1)?)?)).collect();
        let bytes = Arc::new(bytes.ok_or_else(|| Fault::internal("a component has come damaged"))?);
        Ok(NewComponent { node: self.node, bytes, dropped: self.dropped })
    }
}

/// From the others to the leader.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Report {
    /// The highest tick that a source of this process has opened.
    Frozen {
        number: u64,
        tick: u64,
    },
    Announced {
        number: u64,
    },
    /// What the process held at the barrier is stored. `written`: bytes.
    Stored {
        number: u64,
        parts: Vec<PartManifest>,
        prepared: Vec<PartManifest>,
        written: u64,
    },
    /// It is not, but what its sinks have prepared is known.
    NotStored {
        number: u64,
        prepared: Vec<PartManifest>,
        fault: Told,
    },
    Committed {
        number: u64,
        fault: Option<Told>,
    },
    /// What was ordered of an upgrade is done, or why it is not.
    Upgrade {
        step: UpgradeStep,
        fault: Option<Told>,
    },
    Failed(Told),
    /// All input has ended and all rows are processed. Latencies in µs, with the number of rows.
    Ended {
        prepared: Vec<PartManifest>,
        latency: Vec<(u64, u64)>,
    },
    /// Of this process's workers; they also say that it is still there.
    Numbers {
        nodes: Vec<NodeNumbers>,
        first_row_ns: u64,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum UpgradeStep {
    Prepared,
    Tried,
    Settled,
}

/// A node's numbers on one worker.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct NodeNumbers {
    pub node: usize,
    pub worker: usize,
    /// As `NodeMetrics::numbers` lists them.
    pub numbers: [u64; 8],
    pub watermark: i64,
    pub holder: Option<Holder>,
    pub counters: Vec<(String, u64)>,
}

/// A fault on its way.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Told {
    kind: u8,
    operator: String,
    worker: Option<usize>,
    key: Option<String>,
    row: Option<String>,
    message: String,
    help: Option<String>,
}

const KINDS: [FaultKind; 6] =
    [FaultKind::Data, FaultKind::Component, FaultKind::Config, FaultKind::Io, FaultKind::Closed, FaultKind::Internal];

impl From<Fault> for Told {
    fn from(fault: Fault) -> Self {
        let kind = KINDS.iter().position(|&kind| kind == fault.kind).unwrap_or(KINDS.len() - 1) as u8;
        let Fault { operator, worker, key, row, message, help, .. } = fault;
        Self { kind, operator, worker, key, row, message, help }
    }
}

impl From<Told> for Fault {
    fn from(told: Told) -> Self {
        let kind = KINDS.get(usize::from(told.kind)).copied().unwrap_or(FaultKind::Internal);
        let Told { operator, worker, key, row, message, help, .. } = told;
        Self { kind, operator, worker, key, row, message, help }
    }
}

pub(crate) fn send(to: &Wire, message: &impl Serialize) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    to.say(&line)
}

/// The next message; none if the other side has gone.
pub(crate) fn receive<T: DeserializeOwned>(from: &mut BufReader<impl Read>) -> std::io::Result<Option<T>> {
    let mut line = Vec::new();
    from.by_ref().take(MESSAGE_BYTES_MAX).read_until(b'\n', &mut line)?;
    if line.last() != Some(&b'\n') {
        return Ok(None);
    }
    Ok(Some(serde_json::from_slice(&line)?))
}
