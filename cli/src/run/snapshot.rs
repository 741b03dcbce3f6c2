//! One picture as a PNG that holds the parameters it was made with.

use std::fs::File;
use std::io::{BufWriter, ErrorKind};
use std::path::{Path, PathBuf};

use livediffusion_pipeline::frame::Size;
use livediffusion_pipeline::params::{PARAMETERS, Parameters};
use serde_json::{Map, Value};

use crate::failure::{Failure, Outcome, RUNNING};

/// Keyword of the text chunk with the parameters as one JSON object, each value as its flag takes it.
const KEYWORD: &str = "livediffusion";

/// Writes `livediffusion-TIME.png` into `folder`; what is there is never replaced.
pub(crate) fn save(folder: &Path, size: Size, rgb: &[u8], parameters: &Parameters) -> Outcome<PathBuf> {
    let (path, file) = create(folder)?;
    let failed = |error: png::EncodingError| Failure::new(RUNNING, format!("{}: {error}", path.display()));
    let mut encoder = png::Encoder::new(BufWriter::new(file), size.width as u32, size.height as u32);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    let values: Map<String, Value> =
        PARAMETERS.iter().map(|spec| (spec.name.to_owned(), Value::from((spec.show)(parameters)))).collect();
    // International text: prompts are in any language.
    encoder.add_itxt_chunk(KEYWORD.to_owned(), Value::Object(values).to_string()).map_err(failed)?;
    let mut writer = encoder.write_header().map_err(failed)?;
    writer.write_image_data(rgb).map_err(failed)?;
    writer.finish().map_err(failed)?;
    Ok(path)
}

fn create(folder: &Path) -> Outcome<(PathBuf, File)> {
    #[allow(clippy::disallowed_methods, reason = "the name of a file, far from the frame path's time")]
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let time = livediffusion_bench::record::utc(now.as_secs()).replace([':', '-'], "").replace('T', "-");
    let time = time.trim_end_matches('Z');
    for number in 1.. {
        let more = if number == 1 { String::new() } else { format!("-{number}") };
        let path = folder.join(format!("livediffusion-{time}{more}.png"));
        match File::create_new(&path) {
            Ok(file) => return Ok((path, file)),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(Failure::new(RUNNING, format!("{}: {error}", path.display()))),
        }
    }
    Err(Failure::new(RUNNING, format!("{}: no name is free", folder.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snapshots_keep_their_parameters_and_replace_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let size = Size::new(4, 2);
        let rgb: Vec<u8> = (0..24).collect();
        let parameters = Parameters { prompt: "Fuchs im Grünen".into(), ..Parameters::default() };
        let paths = [(); 3].map(|()| save(folder.path(), size, &rgb, &parameters).unwrap());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 3, "{paths:?}");
        let file = std::io::BufReader::new(File::open(&paths[0]).unwrap());
        let mut reader = png::Decoder::new(file).read_info().unwrap();
        let text = reader.info().utf8_text[0].get_text().unwrap();
        let values: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(values["prompt"], "Fuchs im Grünen");
        // All of them can be set again.
        let mut again = Parameters::default();
        for (name, value) in values.as_object().unwrap() {
            again.set(name, value.as_str().unwrap()).unwrap();
        }
        assert_eq!(again, parameters);
        let mut pixels = vec![0; 24];
        reader.next_frame(&mut pixels).unwrap();
        assert_eq!(pixels, rgb);
    }
}
