use tinylb_core::Side;

use crate::{Entropy, Seeded};

/// One run: what there is, and what happens when. Printed and parsed as text, a line for each step;
/// equal scenarios run equally.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Scenario {
    /// Decides whatever the rest leaves open: in which order things happen, and how much at a time.
    pub seed: u64,
    /// What there is.
    pub config: Config,
    /// What happens, in order.
    pub steps: Vec<Step>,
}

/// One operation, once this many other things have happened since the one before, or once nothing
/// more happens by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// How many things happen before it.
    pub after: u32,
    /// What is done.
    pub operation: Operation,
}

/// Something that a peer, the network or the system does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// A peer sends this many bytes.
    Send(Side, u32),
    /// A peer sends an urgent byte.
    Urgent(Side),
    /// A peer ends its stream, and goes on reading.
    End(Side),
    /// A peer closes its socket. What it hasn't read makes that a reset.
    Close(Side),
    /// A peer resets its connection.
    Abort(Side),
    /// A peer stops reading.
    Stop(Side),
    /// A peer reads again.
    Go(Side),
    /// Nothing passes between a peer and the balancer.
    Hold(Side),
    /// It does again.
    Release(Side),
    /// The reactor reports a socket though nothing has changed.
    Report(Side),
    /// From now on, there are no pipes to be had.
    RefusePipes,
    /// This many splices fail, for lack of memory.
    FailSplices(u32),
    /// Every splice fails from now on: this system can't.
    ForbidSplices,
    /// The session is killed.
    Kill,
}

macro_rules! config {
    ($($(#[$doc:meta])* $field:ident $name:literal $default:literal $least:literal $most:literal,)*) => {
        /// What there is in a run.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct Config {
            $($(#[$doc])* pub $field: u32,)*
        }

        impl Default for Config {
            fn default() -> Self {
                Self { $($field: $default,)* }
            }
        }

        /// Every field of a [`Config`].
        pub const CONFIG_FIELDS: &[ConfigField] = &[
            $(ConfigField {
                name: $name,
                least: $least,
                most: $most,
                of: |config| &mut config.$field,
            },)*
        ];
    };
}

/// A field of a [`Config`].
pub struct ConfigField {
    /// Its name in a scenario's text.
    pub name: &'static str,
    /// The smallest value.
    pub least: u32,
    /// The largest value.
    pub most: u32,
    /// The value.
    pub of: fn(&mut Config) -> &mut u32,
}

config! {
    /// When bytes are spliced: 0 never, 1 while a direction is hot, 2 always.
    splice "splice" 1 0 2,
    /// How many pipes there are at most.
    pipes "pipes" 2 0 8,
    /// How much a pipe holds, in bytes. The relay wants 8 at least.
    pipe_size "pipe-size" 64 1 64,
    /// The balancer's receive buffers, in bytes.
    receive "receive" 64 1 1024,
    /// The balancer's send buffers, in bytes.
    send "send" 64 1 1024,
    /// The peers' receive buffers, in bytes.
    window "window" 64 1 1024,
    /// In how many of a hundred calls something else happens meanwhile.
    meanwhile "meanwhile" 0 0 100,
    /// How many of a hundred calls are interrupted.
    interrupts "interrupts" 0 0 50,
    /// How many of a hundred splices move less than they could.
    fragments "fragments" 0 0 100,
    /// How many of a hundred things that happen are reports without a reason.
    spurious "spurious" 0 0 50,
}

impl Scenario {
    /// The scenario that belongs to this seed.
    pub fn from_seed(seed: u64) -> Self {
        Self { seed, ..Self::generate(&mut Seeded::for_purpose(seed, 0)) }
    }

    /// Draws a scenario from any source of choices.
    pub fn generate(source: &mut impl Entropy) -> Self {
        let config = Config::generate(source);
        let mut steps = Vec::new();
        let (moves_much, leaning) = (source.chance(30), source.below(8));
        for _ in 0..source.between(2, 14) {
            let after = if source.chance(40) { 0 } else { source.between(0, 60) };
            steps.push(Step { after, operation: Operation::generate(source, moves_much, leaning) });
        }
        Self { seed: source.next(), config, steps }
    }
}

impl Config {
    fn generate(source: &mut impl Entropy) -> Self {
        let sizes = [1, 8, 16, 24, 64, 100, 400];
        let mut size = || source.pick(&sizes).copied().unwrap_or(64);
        let (receive, send, window) = (size(), size(), size());
        let mut sometimes = |chance, most| match source.chance(chance) {
            true => source.between(1, most),
            false => 0,
        };
        let (meanwhile, interrupts) = (sometimes(50, 60), sometimes(20, 20));
        let (fragments, spurious) = (sometimes(50, 80), sometimes(30, 20));
        let splice = source.pick(&[0, 1, 1, 2, 2]).copied().unwrap_or(1);
        let pipes = source.pick(&[0, 1, 1, 2, 2, 3, 4]).copied().unwrap_or(2);
        let pipe_size = source.pick(&[4, 8, 16, 64, 64]).copied().unwrap_or(64);
        Self {
            splice,
            pipes,
            pipe_size,
            receive,
            send,
            window,
            meanwhile,
            interrupts,
            fragments,
            spurious,
        }
    }
}

impl Operation {
    /// `leaning`: in some scenarios, one kind of operation is frequent.
    fn generate(source: &mut impl Entropy, moves_much: bool, leaning: u64) -> Self {
        let side = if source.chance(50) { Side::Client } else { Side::Backend };
        if leaning < 4 && source.chance(30) {
            return match leaning {
                0 => Self::Urgent(side),
                1 => Self::End(side),
                2 => Self::FailSplices(source.between(1, 4)),
                _ => Self::Abort(side),
            };
        }
        match source.below(100) {
            0..40 => {
                let most = if moves_much { 400 } else { 60 };
                Self::Send(side, source.between(1, most))
            }
            40..44 => Self::Urgent(side),
            44..58 => Self::End(side),
            58..64 => Self::Close(side),
            64..71 => Self::Abort(side),
            71..77 => Self::Stop(side),
            77..80 => Self::Go(side),
            80..83 => Self::Hold(side),
            83..86 => Self::Release(side),
            86..89 => Self::Report(side),
            89..91 => Self::RefusePipes,
            91..94 => Self::FailSplices(source.between(1, 4)),
            94..95 => Self::ForbidSplices,
            _ => Self::Kill,
        }
    }
}
