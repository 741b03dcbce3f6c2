//! Frames from picture files, where there is no GStreamer to decode video.

use std::path::{Path, PathBuf};

use image::imageops::FilterType;
use livediffusion_pipeline::frame::Size;

use crate::failure::{Failure, Outcome, USAGE};

const HINT: &str =
    "this binary has no GStreamer for video: give --input a folder of PNG or JPEG pictures, or one of them";

/// Up to `most` pictures of a folder in the order of their names, or the one picture that is named, as packed RGB of `size`;
/// those of another shape lose their edges.
pub(crate) fn frames(input: &str, size: Size, most: usize) -> Outcome<Vec<Vec<u8>>> {
    let failed = |path: &Path, error: &dyn std::fmt::Display| {
        Failure::new(USAGE, format!("{}: {error}", path.display())).with_hint(Some(HINT.into()))
    };
    let path = Path::new(input);
    let mut files: Vec<PathBuf> = if path.is_dir() {
        let entries = std::fs::read_dir(path).map_err(|error| failed(path, &error))?;
        entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| is_picture(path)).collect()
    } else {
        vec![path.to_path_buf()]
    };
    files.sort();
    let frames: Vec<Vec<u8>> = files
        .iter()
        .take(most)
        .map(|path| {
            // By what it holds: an extension may lie.
            let reader = image::ImageReader::open(path).and_then(image::ImageReader::with_guessed_format);
            let picture =
                reader.map_err(|error| failed(path, &error))?.decode().map_err(|error| failed(path, &error))?;
            let (width, height) = (size.width as u32, size.height as u32);
            Ok(picture.resize_to_fill(width, height, FilterType::Triangle).into_rgb8().into_raw())
        })
        .collect::<Outcome<_>>()?;
    if frames.is_empty() { Err(failed(path, &"it holds no pictures")) } else { Ok(frames) }
}

fn is_picture(path: &Path) -> bool {
    let end = path.extension().and_then(|end| end.to_str()).unwrap_or_default();
    ["png", "jpg", "jpeg"].iter().any(|known| end.eq_ignore_ascii_case(known))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_of_a_folder_come_by_name_at_the_size_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        for (name, value) in [("b.png", 20), ("a.PNG", 10), ("c.jpg", 30)] {
            let picture = image::RgbImage::from_pixel(40, 20, image::Rgb([value; 3]));
            let format = if name.ends_with("jpg") { image::ImageFormat::Jpeg } else { image::ImageFormat::Png };
            picture.save_with_format(folder.path().join(name), format).unwrap();
        }
        std::fs::write(folder.path().join("notes.txt"), "no picture").unwrap();
        let input = folder.path().to_str().unwrap();
        let read = frames(input, Size::new(16, 16), 2).unwrap();
        assert_eq!(read, [vec![10; 3 * 256], vec![20; 3 * 256]]);
        let one = frames(&format!("{input}/b.png"), Size::new(8, 8), 5).unwrap();
        assert_eq!(one, [vec![20; 3 * 64]]);
    }

    #[test]
    fn what_is_no_picture_is_refused_with_a_hint() {
        let folder = tempfile::tempdir().unwrap();
        let empty = frames(folder.path().to_str().unwrap(), Size::new(8, 8), 1).unwrap_err();
        assert!(empty.message().contains("no pictures"), "{empty:?}");
        let text = folder.path().join("clip.mp4");
        std::fs::write(&text, "not a picture either").unwrap();
        for input in [text.to_str().unwrap(), "/nosuch.png"] {
            let failure = frames(input, Size::new(8, 8), 1).unwrap_err();
            assert!(failure.message().contains(input) && failure.hint() == Some(HINT), "{failure:?}");
        }
    }
}
