//! The programs' stacks, reckoned as Linux 6.1 does it: the frames of a chain of calls, each rounded up to
//! 32 bytes, are 512 bytes together at most (`check_max_stack_depth` in kernel/bpf/verifier.c), and eight
//! deep. Newer kernels round less, so a machine that runs one would load what the oldest supported kernel
//! refuses.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

use std::collections::{BTreeMap, BTreeSet};

use object::{Object, ObjectSection, ObjectSymbol, RelocationTarget, SectionIndex, SymbolKind};

/// MAX_BPF_STACK.
const MOST: u32 = 512;
/// What Linux 6.1 rounds a frame up to.
const ROUND: u32 = 32;
/// MAX_CALL_FRAMES.
const DEEPEST: usize = 8;

/// Where a function begins: a section's number, and an address in it.
type At = (usize, u64);

#[derive(Debug, Default)]
struct Function {
    name: String,
    /// Bytes of its own frame.
    frame: u32,
    calls: BTreeSet<At>,
}

#[test]
fn every_chain_of_calls_fits_the_stack_of_linux_6_1() {
    let Some(bytes) = bulkhead_datapath::embedded() else {
        eprintln!("SKIPPED: this test needs kernel programs: run `cargo xtask test`");
        return;
    };
    let file = object::File::parse(bytes).unwrap();
    let functions = read(&file);
    let called: BTreeSet<At> =
        functions.values().flat_map(|function| function.calls.iter().copied()).collect();
    let programs: Vec<At> = functions.keys().filter(|at| !called.contains(at)).copied().collect();
    assert!(programs.len() >= 10, "the programs are found: {programs:?}");
    let mut deepest = 0;
    for program in programs {
        let (bytes, chain) = worst(&functions, program);
        let names: Vec<_> = chain.iter().map(|at| &functions[at]).map(|f| (&f.name, f.frame)).collect();
        assert!(bytes <= MOST && chain.len() <= DEEPEST, "{bytes} bytes of {MOST}: {names:?}");
        deepest = deepest.max(bytes);
    }
    assert!(deepest > MOST / 2, "the frames are found: {deepest}");
}

/// The largest chain of calls from here on.
fn worst(functions: &BTreeMap<At, Function>, from: At) -> (u32, Vec<At>) {
    let function = &functions[&from];
    let below = function.calls.iter().map(|at| worst(functions, *at)).max_by_key(|(bytes, _)| *bytes);
    let (bytes, mut chain) = below.unwrap_or_default();
    chain.insert(0, from);
    (bytes + function.frame.max(1).next_multiple_of(ROUND), chain)
}

/// Every function of the object, its frame and whom it calls.
fn read(file: &object::File<'_>) -> BTreeMap<At, Function> {
    let mut functions = BTreeMap::new();
    for symbol in file.symbols().filter(|symbol| symbol.kind() == SymbolKind::Text && symbol.size() > 0) {
        let section = symbol.section_index().unwrap();
        let name = symbol.name().unwrap().to_owned();
        let code = file.section_by_index(section).unwrap().data_range(symbol.address(), symbol.size());
        let mut function = Function { name, ..Function::default() };
        frame(code.unwrap().unwrap(), &mut function.frame);
        function.calls = calls(file, section, symbol.address(), code.unwrap().unwrap());
        functions.insert((section.0, symbol.address()), function);
    }
    functions
}

/// An instruction's code, its registers (target, source), offset and number.
fn decode(instruction: &[u8]) -> (u8, u8, u8, i16, i32) {
    let [code, registers, low, high, rest @ ..] = instruction else { panic!("cut off") };
    let offset = i16::from_le_bytes([*low, *high]);
    (*code, registers & 15, registers >> 4, offset, i32::from_le_bytes(rest.try_into().unwrap()))
}

/// The frame that is reached by a function's code: by loads and stores under r10, and by addresses made
/// from it.
fn frame(code: &[u8], frame: &mut u32) {
    const FRAME_POINTER: u8 = 10;
    const MOVE: u8 = 0xbf;
    const ADD: u8 = 0x07;
    let mut copies = BTreeSet::new();
    for instruction in code.chunks(8) {
        let (code, target, source, offset, number) = decode(instruction);
        let reached = match code & 7 {
            1 if source == FRAME_POINTER => i32::from(offset),
            2 | 3 if target == FRAME_POINTER => i32::from(offset),
            7 if code == ADD && copies.contains(&target) => number,
            _ => 0,
        };
        *frame = (*frame).max(reached.min(0).unsigned_abs());
        // Loads and arithmetic write their target.
        if matches!(code & 7, 0 | 1 | 4 | 7) {
            copies.remove(&target);
        }
        if code == MOVE && source == FRAME_POINTER {
            copies.insert(target);
        }
    }
}

/// Whom a function calls: by a relocation to a function's name or to a place in a section, or, in its own
/// section, by the distance.
fn calls(file: &object::File<'_>, section: SectionIndex, start: u64, code: &[u8]) -> BTreeSet<At> {
    const CALL: u8 = 0x85;
    /// BPF_PSEUDO_CALL.
    const OF_OURS: u8 = 1;
    let found = file.section_by_index(section).unwrap();
    let relocations: BTreeMap<u64, RelocationTarget> =
        found.relocations().map(|(at, relocation)| (at, relocation.target())).collect();
    let mut called = BTreeSet::new();
    for (index, instruction) in (0u64..).zip(code.chunks(8)) {
        let (opcode, _, source, _, number) = decode(instruction);
        if opcode != CALL || source != OF_OURS {
            continue;
        }
        let at = start + index * 8;
        called.insert(match relocations.get(&at) {
            Some(RelocationTarget::Symbol(symbol)) => {
                let symbol = file.symbol_by_index(*symbol).unwrap();
                let within = if symbol.kind() == SymbolKind::Section { i64::from(number) * 8 + 8 } else { 0 };
                (symbol.section_index().unwrap().0, symbol.address().checked_add_signed(within).unwrap())
            }
            _ => (section.0, (at + 8).checked_add_signed(i64::from(number) * 8).unwrap()),
        });
    }
    called
}
