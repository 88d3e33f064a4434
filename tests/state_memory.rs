//! One promise: a file costs no more memory than a small multiple of what this optimizer's own header would take, or of 4 MiB,
//! whatever it says of itself.

mod common;
#[path = "common/craft.rs"]
mod craft;
#[path = "common/paths.rs"]
mod paths;

use common::Model;
use craft::Craft;
use fadam::{Adam, Error, Optimizer};
use serde_json::json;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::fs;
use std::io::Cursor;

thread_local! {
    /// Bytes that this thread has allocated and not freed, and the most that they have been.
    static HELD: Cell<isize> = const { Cell::new(0) };
    static MOST: Cell<isize> = const { Cell::new(0) };
}

struct Counting;

fn held(more: isize) {
    HELD.set(HELD.get() + more);
    MOST.set(MOST.get().max(HELD.get()));
}

// SAFETY: every call is forwarded to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        held(layout.size() as isize);
        // SAFETY: the caller's layout, as it was given.
        unsafe { System.alloc(layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        held(new_size as isize); // both are there while one is copied
        held(-(layout.size() as isize));
        // SAFETY: the caller's block and layout, as they were given.
        unsafe { System.realloc(ptr, layout, new_size) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        held(-(layout.size() as isize));
        // SAFETY: the caller's block and layout, as they were given.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The most that some work holds at a time.
fn most<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = HELD.get();
    MOST.set(before);
    let result = work();
    (result, (MOST.get() - before) as usize)
}

const MIB: usize = 1 << 20;

/// As long as a header may be for a small optimizer.
const LONGEST: usize = 4 * MIB;

/// A header of this length that begins and ends so, and repeats a part in between, which is told how often it has been.
fn repeated(len: usize, begin: &str, part: impl Fn(usize) -> String, end: &str) -> Vec<u8> {
    let mut header = begin.to_owned();
    for i in 0.. {
        let part = part(i);
        if header.len() + part.len() + end.len() > len {
            break;
        }
        header += &part;
    }
    header += end;
    header.into_bytes()
}

fn file(header: Vec<u8>) -> Vec<u8> {
    Craft { header, data: vec![] }.finish()
}

/// Every way to fill a header that has the most values, objects or names for its length.
fn hostile(len: usize) -> Vec<(&'static str, Vec<u8>)> {
    let same = |begin: &str, part: &str, end: &str| file(repeated(len, begin, |_| part.to_owned(), end));
    let tensor = |i: usize| {
        format!("\"{i:x}\":{{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[{0},{1}]}},", 4 * i, 4 * i + 4)
    };
    let empty = |i: usize| format!("\"{i:x}\":{{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}},");
    let last = "\"x\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}";
    let key = |i: usize| format!("\"{i:x}\":\"\",");
    let mut cases = vec![
        ("numbers", same("{\"a\":[", "0,", "0]}")),
        ("lists", same("{\"a\":[", "[0],", "0]}")),
        ("objects", same("{\"a\":[", "{\"\":0},", "0]}")),
        ("brackets", same("{\"a\":", "[", "}")),
        ("shapes", same("{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,4],\"shape\":[", "1,", "1]}}")),
        ("offsets", same("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[", "1,", "1]}}")),
        ("a long name", same("{\"", "a", "\":{}}")),
        ("an escaped name", same("{\"", "\\u00e9", "\":{}}")),
        ("a long dtype", same("{\"a\":{\"dtype\":\"", "a", "\"}}")),
        ("tensors", file(repeated(len, "{", tensor, last))),
        ("empty tensors", file(repeated(len, "{", empty, last))),
        ("keys of a tensor", file(repeated(len, "{\"a\":{", key, "\"x\":\"\"}}"))),
        ("metadata", file(repeated(len, "{\"__metadata__\":{", key, "\"x\":\"\"}}"))),
        ("spaces", same("{", " ", "}")),
    ];
    // What is a part of good metadata.
    let path = paths::scratch("state-memory");
    let mut model = Model::new(Adam::default(), &[&[1.0; 4]]);
    model.optimizer.save(&path).unwrap();
    let good = Craft::new(&fs::read(&path).unwrap());
    fs::remove_file(path).unwrap();
    let rest = len - good.header.len() - 100;
    let document = |name: &'static str, key: &'static str, begin: &str, part: &str, end: &str| {
        let unit = serde_json::to_string(part).unwrap();
        let count = rest / (unit.len() - 2);
        let text = format!("{begin}{}{end}", part.repeat(count));
        (name, good.clone().metadata(|metadata| metadata[key] = json!(text)).finish())
    };
    let parameter = "{\"beta1_power\":\"3ff0000000000000\",\"beta2_power\":\"3ff0000000000000\",\"dtype\":\"\",\"group\":0,\
                     \"len\":0,\"name\":\"\",\"start\":0,\"step\":0},";
    cases.push(document("groups", "groups", "[", "{\"beta1\":0,\"beta2\":0},", "{}]"));
    cases.push(document("parameters", "parameters", "[", parameter, "{}]"));
    cases.push(document("empty parameters", "parameters", "[", "{},", "{}]"));
    cases.push(document("checksums", "checksums", "{", "\"\":\"\",", "\"\":\"\"}"));
    cases.push(document("counters", "counters", "{", "\"\":0,", "\"\":0}"));
    cases.push(document("an optimizer", "optimizer", "{", "\"\":[],", "\"\":0}"));
    cases.push(document("a version", "version", "", "1", ""));
    cases
}

#[test]
fn a_hostile_header_costs_a_small_multiple_of_its_length() {
    for (name, bytes) in hostile(LONGEST) {
        assert!(bytes.len() <= LONGEST + 8 && bytes.len() > LONGEST - 1000, "{name}: {} bytes", bytes.len());
        let mut optimizer = Optimizer::new(Adam::default()).unwrap();
        optimizer.register("p0", 4).unwrap();
        for torch in [false, true] {
            let (result, most) = most(|| match torch {
                false => optimizer.load_from(&mut Cursor::new(&bytes)),
                true => optimizer.load_torch_from(&mut Cursor::new(&bytes), &["p0"]),
            });
            println!("{name}: {:.1} times its length, {result:?}", most as f64 / bytes.len() as f64);
            match result {
                Err(error @ Error::State { .. }) => assert!(error.to_string().len() < 400, "{name}: {error}"),
                // PyTorch's metadata may say anything, and state that is not there has not begun.
                Ok(()) if torch && ["metadata", "spaces"].contains(&name) => {}
                result => panic!("{name}: {result:?}"),
            }
            // Text, the text of a document in it, and what is made of that.
            assert!(most < 6 * bytes.len(), "{name}: {most} bytes for {}", bytes.len());
        }
    }
}

#[test]
fn a_longer_header_is_not_read() {
    let mut optimizer = Optimizer::new(Adam::default()).unwrap();
    optimizer.register("p0", 4).unwrap();
    let bytes = file(repeated(LONGEST + 8, "{\"a\":[", |_| "0,".into(), "0]}"));
    let (result, most) = most(|| optimizer.load_from(&mut Cursor::new(&bytes)));
    let error = result.unwrap_err().to_string();
    assert!(error.contains("for this optimizer no more than 4194304 are read"), "{error}");
    assert!(most < 10_000, "{most}");
}

/// For an optimizer with a long header of its own, it may be longer; and its own is always taken, whatever its names are.
#[test]
fn a_large_optimizer_takes_its_own() {
    for name in ["\u{1}\u{2}\u{7f}\"\\\"\\{}", "layers.{}.weight"] {
        let mut optimizer =
            Optimizer::builder(Adam { amsgrad: true, ..Adam::default() }).ema(0.9).build().unwrap();
        for i in 0..9000 {
            optimizer.register(name.replace("{}", &i.to_string()), i % 2).unwrap();
        }
        let path = paths::scratch("state-memory-large");
        optimizer.save(&path).unwrap();
        let header = u64::from_le_bytes(fs::read(&path).unwrap()[..8].try_into().unwrap()) as usize;
        assert!(header > LONGEST, "{header}");
        let (result, most) = most(|| optimizer.load(&path));
        result.unwrap();
        fs::remove_file(path).unwrap();
        println!("{name}: {:.1} times a header of {header}", most as f64 / header as f64);
        assert!(most < 4 * header + 3 * LONGEST, "{most} bytes for {header}");
    }
}
