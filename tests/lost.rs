//! A state file that cannot be read a second time leaves an optimizer that is half of two: from then on everything is refused.

use fadam::{Adam, Error, Optimizer, Update};
use std::io::{self, Cursor, Read, Seek, SeekFrom};

/// Ends after so many bytes.
struct Failing<'a> {
    file: Cursor<&'a [u8]>,
    left: usize,
}

impl Read for Failing<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.left =
            self.left.checked_sub(buffer.len()).ok_or_else(|| io::Error::other("the disk is gone"))?;
        self.file.read(buffer)
    }
}

impl Seek for Failing<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.file.seek(to)
    }
}

#[test]
fn after_half_a_file_the_optimizer_is_lost() {
    let make = || {
        let mut optimizer = Optimizer::builder(Adam::default()).norms(true).build().unwrap();
        let id = optimizer.register("p", 64).unwrap();
        (optimizer, id)
    };
    let (mut saved, id) = make();
    let (mut parameter, gradient) = (vec![1.0_f32; 64], vec![1.0_f32; 64]);
    saved.step(&mut [Update::new(id, &mut parameter, &gradient)]).unwrap();
    let path = std::env::temp_dir().join(format!("fadam-lost-{}", std::process::id()));
    saved.save(&path).unwrap();
    let file = std::fs::read(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let lost = |error: Error| {
        assert!(matches!(error, Error::Lost), "{error:?}");
        assert!(error.to_string().contains("checkpoint"), "{error}");
    };
    let mut seen = [false; 3]; // refused and untouched, lost, loaded
    for left in (0..3 * file.len()).step_by(16) {
        let (mut optimizer, id) = make();
        let outcome = optimizer.load_from(&mut Failing { file: Cursor::new(&file), left });
        match (outcome, optimizer.state(id)) {
            (Err(_), Ok(state)) => {
                assert_eq!(state.step, 0);
                seen[0] = true;
            }
            (Err(_), Err(error)) => {
                lost(error);
                lost(optimizer.step(&mut [Update::new(id, &mut parameter, &gradient)]).unwrap_err());
                lost(optimizer.step(&mut []).unwrap_err());
                lost(optimizer.report().unwrap_err());
                lost(optimizer.norms_of(id).unwrap_err());
                seen[1] = true;
            }
            (Ok(()), state) => {
                assert_eq!(state.unwrap().step, 1);
                seen[2] = true;
            }
        }
    }
    assert_eq!(seen, [true; 3]);
}
