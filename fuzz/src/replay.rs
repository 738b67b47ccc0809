//! Every seed, as it is and damaged, through its target: what the fuzzer once found stays mended.

use std::path::{Path, PathBuf};

use super::TARGETS;

/// Damaged copies of each seed.
const DAMAGES: u64 = 8;

fn seeds(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(target);
    let paths = std::fs::read_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let mut seeds: Vec<_> =
        paths.map(|entry| entry.unwrap().path()).map(|path| (path.clone(), std::fs::read(path).unwrap())).collect();
    seeds.sort();
    seeds
}

/// A few bytes are changed, taken out or put in, the same each time.
fn damaged(seed: &[u8], number: u64) -> Vec<u8> {
    let mut input = seed.to_vec();
    let mut state = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ seed.len() as u64;
    let mut random = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 33) as usize) % below.max(1)
    };
    for _ in 0..=random(5) {
        let (at, byte) = (random(input.len()), random(256) as u8);
        match random(3) {
            0 if !input.is_empty() => input[at] = byte,
            1 if !input.is_empty() => _ = input.remove(at),
            _ => input.insert(at, byte),
        }
    }
    input
}

fn replay(target: &str) {
    let (_, run) = TARGETS.iter().find(|(name, _)| *name == target).expect("a target");
    let seeds = seeds(target);
    assert!(!seeds.is_empty(), "{target} has seeds");
    for (path, seed) in seeds {
        // Shown when it fails.
        println!("{}", path.display());
        run(&seed);
        for number in 0..DAMAGES {
            println!("damage {number}");
            run(&damaged(&seed, number));
        }
    }
}

macro_rules! replayed {
    ($($(#[$attribute:meta])* $target:ident),+ $(,)?) => {
        $(#[test]
        $(#[$attribute])*
        fn $target() {
            replay(stringify!($target));
        })+

        #[test]
        fn every_target_is_replayed() {
            let replayed = [$(stringify!($target)),+];
            let targets: Vec<_> = TARGETS.iter().map(|(name, _)| *name).collect();
            assert_eq!(replayed.as_slice(), targets);
            let programs = include_str!("../Cargo.toml").matches("[[bin]]").count();
            assert_eq!(programs, targets.len(), "each target has a program");
        }
    };
}

replayed!(
    json,
    json_lines,
    protobuf,
    segment,
    cloud_events,
    otlp,
    gzip,
    deflate,
    brotli,
    zstd,
    #[ignore = "an input may take as long as the timeouts of the port"]
    http,
    cel,
    jsonpath,
    yaml,
    settings,
);
