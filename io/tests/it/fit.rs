use livediffusion_io::{Fit, Next};
use livediffusion_pipeline::frame::Size;

use crate::support::{self, LONG};

/// The first picture of a green 64x32 picture with a red left and a blue right border of 8.
fn first(fit: Fit, width: usize, height: usize) -> (Vec<u8>, Size) {
    let input = "videotestsrc num-buffers=2 pattern=green ! video/x-raw,format=RGB,width=48,height=32,framerate=25/1 \
                 ! videobox left=-8 fill=red ! videobox right=-8 fill=blue ! video/x-raw,width=64";
    let mut options = support::options(width, height);
    options.fit = fit;
    let mut source = support::open(input, &options).unwrap();
    let natural = source.info().natural;
    let Next::Frame(frame) = source.next(LONG).unwrap() else { panic!("a frame is there") };
    (support::packed(&frame), natural)
}

fn pixel(picture: &[u8], width: usize, x: usize, y: usize) -> char {
    let at = (y * width + x) * 3;
    match picture[at..at + 3] {
        [r, g, b] if r > 150 && g < 100 && b < 100 => 'r',
        [r, g, b] if g > 90 && r < 100 && b < 100 => 'g',
        [r, g, b] if b > 150 && r < 100 && g < 100 => 'b',
        [r, g, b] if r < 30 && g < 30 && b < 30 => 'k',
        _ => '?',
    }
}

/// Left, middle and right of the middle row; top and bottom of the middle column.
fn look(picture: &[u8], width: usize, height: usize) -> String {
    let (w, h) = (width - 1, height - 1);
    [(1, h / 2), (w / 2, h / 2), (w - 1, h / 2), (w / 2, 1), (w / 2, h - 1)]
        .iter()
        .map(|(x, y)| pixel(picture, width, *x, *y))
        .collect()
}

#[test]
fn cover_cuts_off_both_sides() {
    let (picture, natural) = first(Fit::Cover, 32, 32);
    assert_eq!(natural, Size::new(64, 32));
    assert_eq!(look(&picture, 32, 32), "ggggg");
}

#[test]
fn contain_puts_black_above_and_below() {
    let (picture, _) = first(Fit::Contain, 32, 32);
    assert_eq!(look(&picture, 32, 32), "rgbkk");
    let (picture, _) = first(Fit::Contain, 128, 32);
    assert_eq!(look(&picture, 128, 32), "kgkgg");
}

#[test]
fn stretch_shows_everything_without_borders() {
    let (picture, _) = first(Fit::Stretch, 32, 32);
    assert_eq!(look(&picture, 32, 32), "rgbgg");
}

#[test]
fn pixels_that_are_not_square_are_made_square() {
    // 32x32 of pixels twice as wide as high is a picture of 64x32.
    let input = "videotestsrc num-buffers=2 pattern=green ! video/x-raw,format=RGB,width=32,height=32,framerate=25/1,pixel-aspect-ratio=2/1";
    let mut options = support::options(32, 32);
    options.fit = Fit::Contain;
    let mut source = support::open(input, &options).unwrap();
    assert_eq!(source.info().natural, Size::new(64, 32));
    let Next::Frame(frame) = source.next(LONG).unwrap() else { panic!("a frame is there") };
    assert_eq!(look(&support::packed(&frame), 32, 32), "gggkk");
}

#[test]
fn rotated_pictures_are_turned_upright() {
    let input = "videotestsrc num-buffers=2 pattern=green ! video/x-raw,format=I420,width=64,height=32,framerate=25/1 \
                 ! taginject tags=image-orientation=rotate-90";
    let source = support::open(input, &support::options(32, 32)).unwrap();
    assert_eq!(source.info().natural, Size::new(32, 64));
}
