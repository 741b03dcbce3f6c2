//! PTX as text to programs: as much of the language as NVRTC writes for the kernels, and an error for anything else.

use std::collections::HashMap;

use super::operations::{Compute, Type, operation};

/// Addresses of these spaces begin here, so that one is never taken for another's; newer compilers keep them in 32 bits.
pub(super) const PARAMETERS: u64 = 1 << 30;
pub(super) const SHARED: u64 = 2 << 30;

/// Where goes what nobody wants.
const SINK: usize = 0;

/// Memory of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Space {
    Parameters,
    Shared,
    Global,
}

/// What differs from thread to thread, or from launch to launch.
#[derive(Clone, Copy, Debug)]
pub(super) enum Special {
    Thread,
    Threads,
    BlockX,
    BlockY,
    BlocksX,
    BlocksY,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Operand {
    Register(usize),
    Value(u64),
    Special(Special),
}

/// A load or store of neighbours.
#[derive(Clone, Debug)]
pub(super) struct Access {
    pub(super) space: Space,
    pub(super) is_store: bool,
    /// Through a cache that is not told of writes.
    pub(super) is_constant: bool,
    /// Bytes of one of them.
    pub(super) size: usize,
    pub(super) values: Vec<Operand>,
    pub(super) base: Operand,
    pub(super) offset: i64,
}

#[derive(Clone, Debug)]
pub(super) enum Does {
    Compute {
        function: Compute,
        to: usize,
        from: [Operand; 3],
    },
    /// Several registers side by side in one, the first lowest.
    Pack {
        to: usize,
        from: Vec<Operand>,
        bits: u32,
    },
    Unpack {
        to: Vec<usize>,
        from: Operand,
        bits: u32,
    },
    Access(Access),
    /// Atomic, of u32 in global memory.
    Add {
        to: usize,
        base: Operand,
        offset: i64,
        value: Operand,
    },
    Branch(usize),
    Barrier,
    Fence,
    Return,
}

#[derive(Clone, Debug)]
pub(super) struct Instruction {
    /// The register that decides whether it is done, and on what.
    pub(super) guard: Option<(usize, bool)>,
    pub(super) does: Does,
    /// For people.
    pub(super) text: String,
}

/// A kernel.
#[derive(Debug, Default)]
pub(super) struct Function {
    /// Offset and size of each parameter.
    pub(super) parameters: Vec<(usize, usize)>,
    pub(super) registers: usize,
    /// Bytes of shared memory.
    pub(super) shared: usize,
    pub(super) code: Vec<Instruction>,
}

/// All kernels of a text, by name.
pub(super) fn parse(text: &str) -> Result<HashMap<String, Function>, String> {
    let mut functions = HashMap::new();
    let mut lines = text.lines().map(|line| line.split("//").next().unwrap_or_default().trim());
    while let Some(line) = lines.next() {
        let Some(name) = line.strip_prefix(".visible .entry ").and_then(|rest| rest.strip_suffix('(')) else {
            continue;
        };
        let mut builder = Builder::default();
        builder.function.registers = SINK + 1;
        for line in lines.by_ref().take_while(|line| *line != ")") {
            builder.parameter(line).ok_or_else(|| format!("{name}: {line}"))?;
        }
        for line in lines.by_ref().take_while(|line| *line != "}").filter(|line| !line.is_empty() && *line != "{") {
            builder.line(line).ok_or_else(|| format!("{name}: this machine does not know {line:?}"))?;
        }
        functions.insert(name.to_owned(), builder.build().ok_or_else(|| format!("{name}: a label is missing"))?);
    }
    Ok(functions)
}

#[derive(Default)]
struct Builder {
    function: Function,
    /// Addresses of parameters and of what is in shared memory.
    variables: HashMap<String, u64>,
    /// The first register of each prefix, and how many there are.
    registers: Vec<(String, usize, usize)>,
    labels: HashMap<String, usize>,
    /// Which instructions jump where.
    jumps: Vec<(usize, String)>,
}

impl Builder {
    /// `.param .u64 name,` or `.param .align 8 .b8 name[104]`
    fn parameter(&mut self, line: &str) -> Option<()> {
        let (name, align, size) = declaration(line.strip_prefix(".param ")?.trim_end_matches(','))?;
        let end = self.function.parameters.last().map_or(0, |(offset, size)| offset + size);
        let offset = end.next_multiple_of(align);
        self.variables.insert(name.to_owned(), PARAMETERS + offset as u64);
        self.function.parameters.push((offset, size));
        Some(())
    }

    fn line(&mut self, line: &str) -> Option<()> {
        if let Some(label) = line.strip_suffix(':') {
            self.labels.insert(label.to_owned(), self.function.code.len());
            return Some(());
        }
        let line = line.strip_suffix(';')?;
        if line.starts_with(".pragma ") {
            return Some(());
        }
        if let Some(rest) = line.strip_prefix(".reg ") {
            // `.f32 %f<407>`
            let (prefix, count) = rest.split_whitespace().nth(1)?.strip_suffix('>')?.split_once('<')?;
            let count = count.parse().ok()?;
            self.registers.push((prefix.to_owned(), self.function.registers, count));
            self.function.registers += count;
            return Some(());
        }
        if let Some(rest) = line.strip_prefix(".shared ") {
            let (name, align, size) = declaration(rest)?;
            let offset = self.function.shared.next_multiple_of(align);
            self.variables.insert(name.to_owned(), SHARED + offset as u64);
            self.function.shared = offset + size;
            return Some(());
        }
        self.instruction(line)
    }

    fn instruction(&mut self, text: &str) -> Option<()> {
        let (guard, rest) = match text.strip_prefix('@') {
            Some(guarded) => {
                let (register, rest) = guarded.split_once(char::is_whitespace)?;
                let name = register.trim_start_matches('!');
                (Some((self.register(name)?, !register.starts_with('!'))), rest.trim())
            }
            None => (None, text),
        };
        let (name, operands) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
        let operands = split(operands);
        let does = match (name, operands.as_slice()) {
            ("ret", []) => Does::Return,
            ("bar.sync" | "barrier.sync", ["0"]) => Does::Barrier,
            ("membar.gl" | "fence.acq_rel.gpu" | "fence.sc.gpu", []) => Does::Fence,
            ("bra" | "bra.uni", [label]) => {
                self.jumps.push((self.function.code.len(), (*label).to_owned()));
                Does::Branch(usize::MAX)
            }
            ("atom.global.add.u32" | "atom.relaxed.gpu.global.add.u32", [to, at, value]) => {
                let (base, offset) = self.address(at)?;
                Does::Add { to: self.register(to)?, base, offset, value: self.operand(value, Type::U32)? }
            }
            (access, [to, at]) if access.starts_with("ld.") => Does::Access(self.access(access, to, at)?),
            (access, [at, from]) if access.starts_with("st.") => Does::Access(self.access(access, from, at)?),
            ("mov.b32" | "mov.b64", [to, from]) if to.starts_with('{') || from.starts_with('{') => {
                self.regroup(to, from, Type::parse(&name["mov.".len()..])?)?
            }
            (_, [to, from @ ..]) if from.len() <= 3 => {
                // A shift's amount is a u32 whatever is shifted; the condition of a selection is a register.
                let of = Type::parse(name.rsplit('.').next()?)?;
                let mut all = [Operand::Value(0); 3];
                for (at, text) in all.iter_mut().zip(from) {
                    *at = self.operand(text, of)?;
                }
                Does::Compute { function: operation(name)?, to: self.register(to)?, from: all }
            }
            _ => return None,
        };
        self.function.code.push(Instruction { guard, does, text: text.to_owned() });
        Some(())
    }

    /// `ld.global.nc.v4.f32` and the like.
    fn access(&self, name: &str, values: &str, at: &str) -> Option<Access> {
        let mut parts = name.split('.');
        let is_store = parts.next()? == "st";
        let (mut space, mut is_constant, mut count, mut of) = (None, false, 1, None);
        for part in parts {
            match part {
                "param" => space = Some(Space::Parameters),
                "shared" => space = Some(Space::Shared),
                "global" => space = Some(Space::Global),
                "nc" => is_constant = true,
                "volatile" => {}
                "v2" => count = 2,
                "v4" => count = 4,
                other => of = Some(Type::parse(other)?),
            }
        }
        let of = of?;
        let list = values.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).unwrap_or(values);
        let values: Option<Vec<Operand>> = list.split(',').map(|value| self.operand(value.trim(), of)).collect();
        let values = values.filter(|values| values.len() == count)?;
        let (base, offset) = self.address(at)?;
        Some(Access { space: space?, is_store, is_constant, size: of.size(), values, base, offset })
    }

    /// `[%rd1+-8]` or `[name+56]`
    fn address(&self, text: &str) -> Option<(Operand, i64)> {
        let inner = text.strip_prefix('[')?.strip_suffix(']')?;
        let (base, offset) = inner.split_once('+').unwrap_or((inner, "0"));
        Some((self.operand(base, Type::U64)?, offset.parse().ok()?))
    }

    fn regroup(&self, to: &str, from: &str, whole: Type) -> Option<Does> {
        let list = |text: &str| -> Option<Vec<String>> {
            let inner = text.strip_prefix('{')?.strip_suffix('}')?;
            Some(inner.split(',').map(|name| name.trim().to_owned()).collect())
        };
        let bits = |parts: usize| (8 * whole.size() / parts) as u32;
        if let Some(parts) = list(from) {
            let from: Option<Vec<Operand>> = parts.iter().map(|part| self.operand(part, whole)).collect();
            return Some(Does::Pack { to: self.register(to)?, from: from?, bits: bits(parts.len()) });
        }
        let parts = list(to)?;
        let to: Option<Vec<usize>> = parts.iter().map(|part| self.register(part)).collect();
        Some(Does::Unpack { to: to?, from: self.operand(from, whole)?, bits: bits(parts.len()) })
    }

    fn register(&self, name: &str) -> Option<usize> {
        if name == "_" {
            return Some(SINK);
        }
        let digits = name.trim_start_matches(|c: char| !c.is_ascii_digit());
        let (prefix, number) = (&name[..name.len() - digits.len()], digits.parse::<usize>().ok()?);
        let (_, first, count) = self.registers.iter().find(|(known, ..)| known == prefix)?;
        (number < *count).then_some(first + number)
    }

    fn operand(&self, text: &str, of: Type) -> Option<Operand> {
        let special = match text {
            "%tid.x" => Some(Special::Thread),
            "%ntid.x" => Some(Special::Threads),
            "%ctaid.x" => Some(Special::BlockX),
            "%ctaid.y" => Some(Special::BlockY),
            "%nctaid.x" => Some(Special::BlocksX),
            "%nctaid.y" => Some(Special::BlocksY),
            _ => None,
        };
        if let Some(special) = special {
            return Some(Operand::Special(special));
        }
        if text.starts_with('%') {
            return self.register(text).map(Operand::Register);
        }
        if let Some(address) = self.variables.get(text) {
            return Some(Operand::Value(*address));
        }
        let hexadecimal = ["0f", "0d", "0x"].iter().find_map(|prefix| text.strip_prefix(prefix));
        let value = match hexadecimal {
            Some(digits) => u64::from_str_radix(digits, 16).ok()?,
            None => text.parse::<i128>().ok()? as u64,
        };
        let size = of.size();
        Some(Operand::Value(if size == 8 { value } else { value & ((1 << (8 * size)) - 1) }))
    }

    fn build(mut self) -> Option<Function> {
        for (at, label) in self.jumps {
            self.function.code[at].does = Does::Branch(*self.labels.get(&label)?);
        }
        // Whoever runs off the end has returned.
        self.function.code.push(Instruction { guard: None, does: Does::Return, text: "ret".to_owned() });
        Some(self.function)
    }
}

/// Name, alignment and bytes of `.align 8 .b8 name[104]`, `.u64 name` or `.u64 .ptr .align 1 name`, where it is that of what the
/// pointer points at.
fn declaration(text: &str) -> Option<(&str, usize, usize)> {
    let (mut align, mut of, mut name, mut is_pointer) = (None, None, None, false);
    let mut words = text.split_whitespace();
    while let Some(word) = words.next() {
        match word.strip_prefix('.') {
            Some("align") if is_pointer => {
                words.next()?;
            }
            Some("align") => align = Some(words.next()?.parse().ok()?),
            Some("ptr") => is_pointer = true,
            Some(other) => of = Some(Type::parse(other)?),
            None => name = Some(word),
        }
    }
    let size = of?.size();
    let (name, count) = match name?.split_once('[') {
        Some((name, count)) => (name, count.strip_suffix(']')?.parse().ok()?),
        None => (name?, 1),
    };
    Some((name, align.unwrap_or(size), size * count))
}

/// At commas that are in no braces.
fn split(text: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut start) = (Vec::new(), 0, 0);
    for (at, c) in text.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(text[start..at].trim());
                start = at + 1;
            }
            _ => {}
        }
    }
    let last = text[start..].trim();
    if !last.is_empty() {
        parts.push(last);
    }
    parts
}
