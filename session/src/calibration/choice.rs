//! From what was measured to what is used: pure, so that every case can be tested without a network.

use std::fmt::{self, Write as _};

use livediffusion_onnx::{Chosen, OpenVinoDevice, Precision, Provider, ProviderChoice, SessionSettings};

/// Mean absolute difference of the pictures, in 8-bit levels, up to which a faster arithmetic counts. At 1, bf16 would be
/// refused for networks whose pictures nobody can tell from those of f32; at 4, flat areas begin to show it.
pub(super) const MOST_DIFFERENCE: f64 = 2.0;

/// Candidates whose times differ by less than this share are as fast as each other: a shared machine's speed varies by as
/// much from one start to the next, and the choice should not.
const TIE: f64 = 0.05;

/// One way to run the networks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    pub provider: Provider,
    /// Never [`Precision::Auto`].
    pub precision: Precision,
}

impl fmt::Display for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.provider, self.precision)
    }
}

/// What became of a candidate.
#[derive(Clone, Debug, PartialEq)]
pub enum Finding {
    /// It ran.
    Ran {
        /// Median time of a frame, in ms.
        ms: f64,
        /// Mean absolute difference to the pictures of f32, in 8-bit levels; `None` of f32 itself, and where no f32 ran.
        difference: Option<f64>,
    },
    /// It did not load or run, for this reason.
    Failed(String),
}

/// A candidate and what became of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    /// The candidate.
    pub candidate: Candidate,
    /// What became of it.
    pub finding: Finding,
}

/// What the machine and the pack have.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Offer {
    /// Whether the CPU has bf16.
    pub(super) bf16: bool,
    /// Whether the pack has networks in 8 bits.
    pub(super) int8: bool,
    /// Whether the pack's networks are in f32.
    pub(super) in_f32: bool,
}

/// What the settings and the library leave open, the one to prefer first. `compiled` are the library's providers. Fewer than two are no
/// choice. A library for NVIDIA cards is for them: there the arithmetic alone is open.
pub(super) fn candidates(settings: &SessionSettings, compiled: &[Provider], offer: Offer) -> Vec<Candidate> {
    let on_cpu = [
        (Provider::OpenVino, Precision::Int8),
        (Provider::Cpu, Precision::Int8),
        (Provider::OpenVino, Precision::Bf16),
        (Provider::OpenVino, Precision::F32),
        (Provider::Cpu, Precision::F32),
    ];
    let on_card = [(Provider::Cuda, Precision::F16), (Provider::Cuda, Precision::F32)];
    let for_cards = is_asked(settings, Provider::Cuda) && compiled.contains(&Provider::Cuda);
    let all = if for_cards { &on_card[..] } else { &on_cpu };
    // Who asks for 8 bits wants them whatever they look like, and only f32 could tell what that is.
    let elsewhere = settings.openvino != OpenVinoDevice::Cpu;
    if (for_cards && !offer.in_f32) || elsewhere || settings.precision == Precision::Int8 {
        return Vec::new();
    }
    let open = |&(provider, precision): &(Provider, Precision)| {
        let precise = settings.precision == precision || settings.precision == Precision::Auto;
        let there = match precision {
            Precision::Bf16 => offer.bf16,
            Precision::Int8 => offer.int8,
            Precision::F32 | Precision::Auto | Precision::F16 => true,
        };
        is_asked(settings, provider) && precise && there && compiled.contains(&provider)
    };
    all.iter().copied().filter(open).map(|(provider, precision)| Candidate { provider, precision }).collect()
}

fn is_asked(settings: &SessionSettings, wanted: Provider) -> bool {
    match settings.provider {
        ProviderChoice::Auto => true,
        ProviderChoice::Fixed(fixed) => fixed == wanted,
    }
}

/// Why a candidate is not to be used, whatever its speed.
fn objection(measured: &Measured) -> Option<String> {
    match &measured.finding {
        Finding::Failed(reason) => Some(format!("failed: {reason}")),
        Finding::Ran { .. } if measured.candidate.precision == Precision::F32 => None,
        Finding::Ran { difference: None, .. } => Some("no f32 to compare it with".into()),
        Finding::Ran { difference: Some(difference), .. } if *difference > MOST_DIFFERENCE => {
            Some(format!("differs by {difference:.2}/255 from f32, more than {MOST_DIFFERENCE}"))
        }
        Finding::Ran { .. } => None,
    }
}

fn ms(measured: &Measured) -> f64 {
    match measured.finding {
        Finding::Ran { ms, .. } => ms,
        Finding::Failed(_) => f64::INFINITY,
    }
}

/// Index of the fastest candidate that may be used; of those about as fast, the first. `None` if none may.
pub(super) fn winner(measured: &[Measured]) -> Option<usize> {
    let allowed = |m: &&Measured| objection(m).is_none();
    let fastest = measured.iter().filter(allowed).map(ms).min_by(f64::total_cmp)?;
    measured.iter().position(|m| allowed(&m) && ms(m) <= fastest * (1.0 + TIE))
}

/// What the measurement chooses, with its figures; `None` if nothing ran.
pub fn choose(measured: &[Measured]) -> Option<Chosen> {
    let Candidate { provider, precision } = measured[winner(measured)?].candidate;
    let mut why = "auto: measured here".to_owned();
    let mut unit = " ms a frame";
    for Measured { candidate, finding } in measured {
        if let Finding::Ran { ms, .. } = finding {
            // Writing to a string does not fail.
            let _ = write!(why, ", {candidate} {ms:.1}{unit}");
            unit = "";
        }
    }
    for m in measured {
        let alike = measured.iter().filter(|other| other.candidate.precision == m.candidate.precision);
        let precision = m.candidate.precision.to_string();
        // Where only one provider has it, the precision names the candidate.
        let name = if alike.count() == 1 && m.candidate.precision != Precision::F32 {
            precision
        } else {
            m.candidate.to_string()
        };
        let _ = match (&m.finding, objection(m)) {
            (_, Some(objection)) => write!(why, "; {name} {objection}"),
            (Finding::Ran { difference: Some(difference), .. }, None) => {
                write!(why, "; {name} differs by {difference:.2}/255 from f32")
            }
            _ => Ok(()),
        };
    }
    Some(Chosen { provider, precision, why })
}

/// For each candidate, its figures and why it is used or not.
pub fn table(measured: &[Measured]) -> Vec<(String, String)> {
    let winner = winner(measured);
    let line = |(index, m): (usize, &Measured)| {
        let mut text = String::new();
        if let Finding::Ran { ms, difference } = m.finding {
            text = format!("{ms:.1} ms a frame, ");
            if let Some(difference) = difference.filter(|d| *d <= MOST_DIFFERENCE) {
                let _ = write!(text, "differs by {difference:.2}/255 from f32, ");
            }
        }
        let verdict = match (objection(m), winner) {
            (Some(objection), _) => objection,
            (None, Some(winner)) if winner == index => "chosen".into(),
            (None, Some(winner)) if ms(m) <= ms(&measured[winner]) => "not chosen: under 5 % faster".into(),
            _ => "slower".into(),
        };
        (m.candidate.to_string(), text + &verdict)
    };
    measured.iter().enumerate().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BF16: Candidate = Candidate { provider: Provider::OpenVino, precision: Precision::Bf16 };
    const F32: Candidate = Candidate { provider: Provider::OpenVino, precision: Precision::F32 };
    const CPU: Candidate = Candidate { provider: Provider::Cpu, precision: Precision::F32 };

    fn ran(candidate: Candidate, ms: f64, difference: Option<f64>) -> Measured {
        Measured { candidate, finding: Finding::Ran { ms, difference } }
    }

    fn failed(candidate: Candidate) -> Measured {
        Measured { candidate, finding: Finding::Failed("no memory".into()) }
    }

    #[test]
    fn bf16_that_looks_like_f32_and_is_faster_is_chosen() {
        let measured = [ran(BF16, 24.12, Some(0.41)), ran(F32, 43.0, None), ran(CPU, 61.2, None)];
        let chosen = choose(&measured).unwrap();
        assert_eq!((chosen.provider, chosen.precision), (Provider::OpenVino, Precision::Bf16));
        assert_eq!(
            chosen.why,
            "auto: measured here, openvino bf16 24.1 ms a frame, openvino f32 43.0, cpu f32 61.2; \
             bf16 differs by 0.41/255 from f32"
        );
    }

    #[test]
    fn bf16_that_looks_otherwise_is_not_chosen_and_the_reason_is_said() {
        let measured = [ran(BF16, 24.0, Some(3.1)), ran(F32, 43.0, None), ran(CPU, 61.2, None)];
        let chosen = choose(&measured).unwrap();
        assert_eq!((chosen.provider, chosen.precision), (Provider::OpenVino, Precision::F32));
        assert!(chosen.why.ends_with("bf16 differs by 3.10/255 from f32, more than 2"), "{}", chosen.why);
        assert_eq!(table(&measured)[0].1, "24.0 ms a frame, differs by 3.10/255 from f32, more than 2");
        assert_eq!(
            choose(&[ran(BF16, 24.0, Some(MOST_DIFFERENCE)), ran(F32, 43.0, None)]).unwrap().precision,
            BF16.precision
        );
    }

    #[test]
    fn a_candidate_that_fails_is_out_with_its_reason() {
        let measured = [failed(BF16), failed(F32), ran(CPU, 61.2, None)];
        let chosen = choose(&measured).unwrap();
        assert_eq!(chosen.provider, Provider::Cpu);
        assert!(chosen.why.contains("openvino f32 failed: no memory"), "{}", chosen.why);
        let verdicts: Vec<String> = table(&measured).into_iter().map(|(_, verdict)| verdict).collect();
        assert_eq!(verdicts, ["failed: no memory", "failed: no memory", "61.2 ms a frame, chosen"]);
        assert_eq!(choose(&[failed(F32), failed(CPU)]), None);
        // What cannot be compared with f32 is not trusted.
        assert_eq!(choose(&[ran(BF16, 24.0, None), failed(F32)]), None);
    }

    #[test]
    fn of_those_about_as_fast_the_first_is_chosen() {
        let near = [ran(F32, 104.0, None), ran(CPU, 100.0, None)];
        assert_eq!(winner(&near), Some(0));
        assert_eq!(table(&near)[1].1, "100.0 ms a frame, not chosen: under 5 % faster");
        assert_eq!(winner(&[ran(F32, 106.0, None), ran(CPU, 100.0, None)]), Some(1));
        // One that may not be used does not decide what is fast.
        assert_eq!(winner(&[ran(BF16, 10.0, Some(9.0)), ran(F32, 104.0, None), ran(CPU, 100.0, None)]), Some(1));
    }

    #[test]
    fn flags_library_and_processor_bound_the_candidates() {
        let both = [Provider::Cpu, Provider::OpenVino];
        let with = |provider, precision| SessionSettings { provider, precision, ..SessionSettings::default() };
        let auto = with(ProviderChoice::Auto, Precision::Auto);
        let offer = |bf16, int8| Offer { bf16, int8, in_f32: false };
        assert_eq!(candidates(&auto, &both, offer(true, false)), [BF16, F32, CPU]);
        assert_eq!(candidates(&auto, &both, offer(false, false)), [F32, CPU]);
        let int8 = |provider| Candidate { provider, precision: Precision::Int8 };
        let all = [int8(Provider::OpenVino), int8(Provider::Cpu), BF16, F32, CPU];
        assert_eq!(candidates(&auto, &both, offer(true, true)), all);
        assert_eq!(candidates(&auto, &[Provider::Cpu], offer(true, false)), [CPU]);
        assert_eq!(candidates(&auto, &Provider::ALL, offer(true, true)), []);
        assert_eq!(candidates(&with(ProviderChoice::Auto, Precision::F32), &both, offer(true, true)), [F32, CPU]);
        assert_eq!(candidates(&with(ProviderChoice::Auto, Precision::Int8), &both, offer(true, true)), []);
        let openvino = ProviderChoice::Fixed(Provider::OpenVino);
        assert_eq!(candidates(&with(openvino, Precision::Auto), &both, offer(true, false)), [BF16, F32]);
        assert_eq!(candidates(&with(openvino, Precision::F32), &both, offer(true, true)), [F32]);
        // On a card f16 is tried where the pack is in f32, and nothing else.
        let card = Offer { bf16: true, int8: true, in_f32: true };
        let on_cuda = |precision| Candidate { provider: Provider::Cuda, precision };
        let cuda = ProviderChoice::Fixed(Provider::Cuda);
        let halves = [on_cuda(Precision::F16), on_cuda(Precision::F32)];
        assert_eq!(candidates(&auto, &Provider::ALL, card), halves);
        assert_eq!(candidates(&with(cuda, Precision::Auto), &Provider::ALL, card), halves);
        assert_eq!(candidates(&with(cuda, Precision::Auto), &Provider::ALL, offer(true, true)), []);
        assert_eq!(candidates(&with(cuda, Precision::F32), &Provider::ALL, card), halves[1..]);
        assert_eq!(candidates(&with(openvino, Precision::Auto), &Provider::ALL, card)[1..], [BF16, F32]);
    }
}
