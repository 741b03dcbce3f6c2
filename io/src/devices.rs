//! Cameras and screens of this machine.

use gst::prelude::*;

use crate::error::IoError;

/// What a device gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceClass {
    /// A camera or capture card.
    Camera,
    /// A screen.
    Screen,
}

/// A source of live pictures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// As the driver calls it.
    pub name: String,
    /// Camera or screen.
    pub class: DeviceClass,
    /// What to write as the input.
    pub input: String,
    /// Formats it offers, in a few words; empty where it does not say.
    pub caps: String,
}

/// Every camera that GStreamer's device monitor sees, and the X11 screen if there is one.
pub fn devices() -> Result<Vec<Device>, IoError> {
    crate::init()?;
    let mut found: Vec<Device> = cameras().iter().enumerate().map(|(i, device)| describe(i, device)).collect();
    if let Some(display) = std::env::var_os("DISPLAY") {
        let name = format!("X11 screen {}", display.to_string_lossy());
        found.push(Device { name, class: DeviceClass::Screen, input: "screen://".into(), caps: String::new() });
    }
    Ok(found)
}

/// Cameras in the monitor's order.
pub(crate) fn cameras() -> Vec<gst::Device> {
    let monitor = gst::DeviceMonitor::new();
    if monitor.add_filter(Some("Video/Source"), None).is_none() || monitor.start().is_err() {
        // No provider for cameras is installed: there are none to be seen.
        return Vec::new();
    }
    let devices = monitor.devices().into_iter().collect();
    monitor.stop();
    devices
}

/// The first camera, or the first whose name contains `name`, whatever the case; else the names of those there are.
pub(crate) fn camera(name: Option<&str>) -> Result<gst::Device, Vec<String>> {
    let wanted = name.map(str::to_lowercase);
    let cameras = cameras();
    let fits = |camera: &&gst::Device| {
        wanted.as_ref().is_none_or(|wanted| camera.display_name().to_lowercase().contains(wanted.as_str()))
    };
    let found = cameras.iter().find(fits).cloned();
    found.ok_or_else(|| cameras.iter().map(|camera| camera.display_name().to_string()).collect())
}

/// The device file of the camera that [`camera`] finds.
pub(crate) fn camera_path(name: Option<&str>) -> Option<String> {
    camera(name).ok().as_ref().and_then(path)
}

fn path(device: &gst::Device) -> Option<String> {
    device.properties().and_then(|p| p.get::<String>("device.path").or_else(|_| p.get("api.v4l2.path")).ok())
}

fn describe(index: usize, device: &gst::Device) -> Device {
    let input = path(device).unwrap_or_else(|| if index == 0 { "camera://".into() } else { String::new() });
    let caps = device.caps().map(|caps| summary(&caps)).unwrap_or_default();
    Device { name: device.display_name().to_string(), class: DeviceClass::Camera, input, caps }
}

/// Distinct `media WIDTHxHEIGHT`, at most six.
fn summary(caps: &gst::Caps) -> String {
    let mut modes: Vec<String> = Vec::new();
    for mode in caps.iter() {
        let side = |name| mode.get::<i32>(name).map_or_else(|_| "?".to_owned(), |side| side.to_string());
        let kind = mode.get::<String>("format").unwrap_or_else(|_| mode.name().to_string());
        let text = format!("{kind} {}x{}", side("width"), side("height"));
        if !modes.contains(&text) {
            modes.push(text);
        }
    }
    modes.truncate(6);
    modes.join(", ")
}
