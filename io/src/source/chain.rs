//! The fixed second half of every input: from decoded video to RGB pictures of the network's size.

use gst::prelude::*;
use livediffusion_pipeline::frame::Size;

use crate::error::IoError;
use crate::input::Fit;
use crate::launch;

/// Conversion, rotation, scaling and the sink that hands pictures out.
#[derive(Clone)]
pub(crate) struct Chain {
    /// Has one pad, `sink`, for raw video.
    pub(crate) bin: gst::Bin,
    /// Where pictures come out.
    pub(crate) pictures: gst_app::AppSink,
    upright: gst::Pad,
}

impl Chain {
    /// RGB pictures of exactly `size`, with square pixels.
    pub(crate) fn new(size: Size, fit: Fit) -> Result<Self, IoError> {
        let text = format!("{} ! appsink name=pictures sync=false max-buffers=2", Self::describe(size, fit));
        let bin = launch::bin(&text, true)?;
        let pictures = launch::named(&bin, "pictures")?;
        let upright = launch::named::<gst::Element>(&bin, "upright")?.static_pad("src");
        let upright = upright.ok_or_else(|| launch::failed("videoflip", &"no pad"))?;
        Ok(Self { bin, pictures, upright })
    }

    /// Everything before the sink, as `gst-launch-1.0` takes it.
    pub(crate) fn describe(size: Size, fit: Fit) -> String {
        let (width, height) = (size.width, size.height);
        let crop = match fit {
            Fit::Cover => format!("! aspectratiocrop name=crop aspect-ratio={width}/{height}"),
            Fit::Contain | Fit::Stretch => String::new(),
        };
        let borders = fit == Fit::Contain;
        // Scaling comes before the conversion to RGB: there are fewer bytes to convert. `bilinear2` averages over all
        // source pixels; plain `bilinear` looks at four, and shrinking a large picture with it flickers.
        // ARGB64 keeps GStreamer off its fast conversion from YUV, which rounds down and darkens every picture by 3 of
        // 255 levels. It costs 2 ms a picture of 512x512, in a thread of GStreamer's.
        format!(
            "queue max-size-buffers=2 max-size-bytes=0 max-size-time=0 \
             ! videoconvert ! videoflip name=upright video-direction=auto {crop} \
             ! videoscale method=bilinear2 add-borders={borders} ! videoconvert ! video/x-raw,format=ARGB64 ! videoconvert \
             ! capsfilter name=fitted caps=video/x-raw,format=RGB,width={width},height={height},pixel-aspect-ratio=1/1"
        )
    }

    /// Gives pictures of another size from now on, covered as [`Fit::Cover`] does. Those on their way keep the old one.
    pub(crate) fn resize(&self, size: Size) {
        let (width, height) = (size.width as i32, size.height as i32);
        if let Some(crop) = self.bin.by_name("crop") {
            crop.set_property("aspect-ratio", gst::Fraction::new(width, height));
        }
        if let Some(fitted) = self.bin.by_name("fitted") {
            let caps = gst::Caps::builder("video/x-raw").field("format", "RGB").field("width", width);
            let square = gst::Fraction::new(1, 1);
            let caps = caps.field("height", height).field("pixel-aspect-ratio", square).build();
            fitted.set_property("caps", &caps);
        }
    }

    /// The pad that takes raw video.
    pub(crate) fn entry(&self) -> Option<gst::Pad> {
        self.bin.static_pad("sink")
    }

    /// Size, with pixels made square, and frame rate of what comes in, once a picture has passed.
    pub(crate) fn natural(&self) -> Option<(Size, Option<(u32, u32)>)> {
        let info = gst_video::VideoInfo::from_caps(self.upright.current_caps()?.as_ref()).ok()?;
        let par = info.par();
        let width = info.width() as u64 * par.numer().max(1) as u64 / par.denom().max(1) as u64;
        let fps = info.fps();
        let framerate = (fps.numer() > 0 && fps.denom() > 0).then_some((fps.numer() as u32, fps.denom() as u32));
        Some((Size::new(width as usize, info.height() as usize), framerate))
    }
}
