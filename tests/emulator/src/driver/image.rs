//! What `cuModuleLoadData` is given: PTX text or a CUBIN.

use std::ffi::{CStr, c_char, c_void};

use super::config::ptx_isa;
use super::errors::{Code, name};

/// Why an image is refused: the code, and what goes to the log.
pub(super) type Refusal = (Code, String);

/// An image.
pub(super) enum Image {
    Ptx(String),
    Cubin {
        /// 90 for `sm_90`.
        arch: u32,
        functions: Vec<String>,
    },
}

const ELF: [u8; 4] = *b"\x7fELF";
const EM_CUDA: u16 = 190;

/// `EI_OSABI` of CUBINs whose flags hold the architecture in their second byte; older ones hold it in their first.
const OSABI_CUDA: u8 = 0x41;

const SHT_SYMTAB: u32 = 2;
const SHT_NOBITS: u32 = 8;
const STT_FUNC: u8 = 2;

impl Image {
    /// Reads an image; it carries its own length.
    pub(super) fn read(image: *const c_void) -> std::result::Result<Self, Refusal> {
        if image.is_null() {
            return Err((Code::INVALID_VALUE, "no image".into()));
        }
        let at = image.cast::<u8>();
        // SAFETY: the C caller passes text that ends with NUL, or an ELF file. Bytes are read in order and reading stops
        // at the first that is not ELF's, so none is read behind a text's NUL.
        let is_elf = (0..ELF.len()).all(|i| unsafe { at.add(i).read() } == ELF[i]);
        if is_elf {
            return cubin(at).ok_or_else(|| (Code::INVALID_IMAGE, "not a CUBIN".into()));
        }
        // SAFETY: not an ELF file, so the C caller's contract says NUL-terminated text.
        let text = unsafe { CStr::from_ptr(image.cast::<c_char>()) };
        match text.to_str() {
            Ok(text) if text.contains(".version") => Ok(Self::Ptx(text.to_owned())),
            _ => Err((Code::INVALID_IMAGE, "neither PTX nor a CUBIN".into())),
        }
    }
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

fn u16_at(bytes: &[u8], at: usize) -> Option<usize> {
    field(bytes, at).map(|field| u16::from_le_bytes(field).into())
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    field(bytes, at).map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<usize> {
    field(bytes, at).and_then(|field| u64::from_le_bytes(field).try_into().ok())
}

/// Sizes of the header and of a section header of a 64-bit ELF file.
const HEADER: usize = 64;
const SECTION: usize = 64;
const SYMBOL: usize = 24;

fn cubin(at: *const u8) -> Option<Image> {
    // SAFETY: it begins as an ELF file does, and the C caller passes a whole one, so its header is there.
    let header = unsafe { std::slice::from_raw_parts(at, HEADER) };
    if header[4] != 2 || u16_at(header, 18)? != usize::from(EM_CUDA) || u16_at(header, 58)? != SECTION {
        return None;
    }
    let flags = u32_at(header, 48)?;
    let arch = if header[7] == OSABI_CUDA { flags >> 8 & 0xff } else { flags & 0xff };
    let (table, sections) = (u64_at(header, 40)?, u16_at(header, 60)?);
    let mut len = table.checked_add(sections * SECTION)?;
    // SAFETY: the header says that the section headers are there.
    let headers = unsafe { std::slice::from_raw_parts(at.add(table), sections * SECTION) };
    for section in headers.chunks_exact(SECTION) {
        if u32_at(section, 4)? != SHT_NOBITS {
            len = len.max(u64_at(section, 24)?.checked_add(u64_at(section, 32)?)?);
        }
    }
    // SAFETY: the section headers say that the file is this long.
    let file = unsafe { std::slice::from_raw_parts(at, len) };
    let section = |index: usize| headers.get(index * SECTION..)?.get(..SECTION);
    let contents = |section: &[u8]| {
        let start = u64_at(section, 24)?;
        file.get(start..start.checked_add(u64_at(section, 32)?)?)
    };
    let mut functions = Vec::new();
    for index in 0..sections {
        let symbols = section(index)?;
        if u32_at(symbols, 4)? != SHT_SYMTAB {
            continue;
        }
        let names = contents(section(u32_at(symbols, 40)? as usize)?)?;
        for symbol in contents(symbols)?.chunks_exact(SYMBOL) {
            if symbol[4] & 0xf == STT_FUNC && u16_at(symbol, 6)? != 0 {
                let name = CStr::from_bytes_until_nul(names.get(u32_at(symbol, 0)? as usize..)?).ok()?;
                functions.push(name.to_str().ok()?.to_owned());
            }
        }
    }
    Some(Image::Cubin { arch, functions })
}

/// Whether a device executes a CUBIN: of its major version, and not of a later minor one.
pub(super) fn cubin_fits(arch: u32, device: u32) -> bool {
    arch / 10 == device / 10 && arch <= device
}

/// Refuses PTX whose `.version` the driver is too old for, or whose `.target` is not the device's.
pub(super) fn check_header(text: &str, driver: i32, device: u32) -> std::result::Result<(), Refusal> {
    for (number, line) in text.lines().enumerate() {
        let line = line.split("//").next().unwrap_or_default().trim();
        let mut words = line.split(|c: char| c.is_whitespace() || c == ',').filter(|word| !word.is_empty());
        let refusal = |code: Code, why: String| Err((code, format!("line {}: {why}", number + 1)));
        match words.next() {
            Some(".version") => {
                let version = words.next().unwrap_or_default();
                let newest = ptx_isa(driver);
                match version.split_once('.').map(|(major, minor)| (major.parse(), minor.parse())) {
                    Some((Ok(major), Ok(minor))) if (major, minor) <= newest => {}
                    Some((Ok::<u32, _>(_), Ok::<u32, _>(_))) => {
                        let why = format!(
                            "Unsupported .version {version}; current version is '{}.{}' ({})",
                            newest.0,
                            newest.1,
                            name(Code::UNSUPPORTED_PTX_VERSION.0)
                        );
                        return refusal(Code::UNSUPPORTED_PTX_VERSION, why);
                    }
                    _ => return refusal(Code::INVALID_PTX, format!("not a version: {version}")),
                }
            }
            Some(".target") => {
                let target = words.next().unwrap_or_default();
                let arch = target.strip_prefix("sm_").unwrap_or_default();
                let number = arch.trim_end_matches(['a', 'f']);
                let Ok(wanted) = number.parse::<u32>() else {
                    return refusal(Code::INVALID_PTX, format!("not a target: {target}"));
                };
                let fits = match &arch[number.len()..] {
                    "" => wanted <= device,
                    "a" => wanted == device,
                    _ => cubin_fits(wanted, device),
                };
                return if fits {
                    Ok(())
                } else {
                    refusal(Code::INVALID_PTX, format!(".target {target} is not compatible with sm_{device}"))
                };
            }
            _ => {}
        }
    }
    Err((Code::INVALID_PTX, "no .version and .target".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(text: &str, driver: i32, device: u32) -> Option<Code> {
        check_header(text, driver, device).err().map(|(code, _)| code)
    }

    #[test]
    fn headers() {
        let ptx = "//\n.version 8.7 // x\n.target sm_90, debug\n";
        assert_eq!(code(ptx, 12080, 90), None);
        assert_eq!(code(ptx, 13040, 100), None);
        assert_eq!(code(ptx, 12060, 90), Some(Code::UNSUPPORTED_PTX_VERSION));
        assert_eq!(code(ptx, 12080, 80), Some(Code::INVALID_PTX));
        assert_eq!(code(".version 8.7\n.target sm_90a", 12080, 100), Some(Code::INVALID_PTX));
        assert_eq!(code(".version 8.8\n.target sm_100f", 12090, 103), None);
        assert_eq!(code(".version 8.8\n.target sm_100f", 12090, 120), Some(Code::INVALID_PTX));
        assert_eq!(code(".version eight\n", 12080, 90), Some(Code::INVALID_PTX));
        assert_eq!(code("", 12080, 90), Some(Code::INVALID_PTX));
    }
}
