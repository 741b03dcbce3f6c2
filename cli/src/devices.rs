//! `livediffusion devices`: cameras and screens.

use livediffusion_io::DeviceClass;
use serde_json::json;

use crate::args::DevicesArgs;
use crate::failure::Outcome;

pub(crate) fn command(args: &DevicesArgs) -> Outcome<()> {
    let devices = livediffusion_io::devices()?;
    if args.json {
        let list: Vec<_> = devices
            .iter()
            .map(|device| {
                json!({ "name": device.name, "class": class(device.class), "input": device.input, "caps": device.caps })
            })
            .collect();
        say!("{:#}", json!({ "devices": list }));
        return Ok(());
    }
    if devices.is_empty() {
        say!("no camera and no screen was found; test:// and files work without");
    }
    for device in devices {
        say!("{:<8} {}\n         --input {}\n         {}", class(device.class), device.name, device.input, device.caps);
    }
    Ok(())
}

fn class(class: DeviceClass) -> &'static str {
    match class {
        DeviceClass::Camera => "camera",
        DeviceClass::Screen => "screen",
    }
}
