//! The element with its U-Net on a server.

use std::net::{Ipv4Addr, SocketAddr};

use gst::prelude::*;
use livediffusion_remote::serve::{Offer, UnetServer};
use livediffusion_session::{ModelOptions, OpenPack, load_unet};

use crate::support::{Rig, is_ready, of_tiny, tiny, wait};

const SQUARE: (usize, usize) = (64, 64);

/// A server with the tiny pack's U-Net, its address and what ends it.
fn serve() -> (String, impl FnOnce()) {
    let options =
        ModelOptions { model: Some(tiny()), provider: "cpu".parse().ok(), threads: Some(1), ..ModelOptions::default() };
    let open = OpenPack::open(&options).unwrap();
    let loaded = load_unet(&options, &open).unwrap();
    let offer = Offer {
        name: "unet".into(),
        unet: loaded.unet,
        pack: open.pack,
        runs_on: "cpu f32".into(),
        profile: loaded.profile,
        most_rows: 8,
        most_side: 64,
        token: None,
    };
    let server = UnetServer::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), None).unwrap();
    let (address, stop) = (format!("grpc://{}", server.local_addr()), server.stopper());
    let thread = std::thread::spawn(|| server.serve(offer).unwrap());
    (address, move || {
        stop.stop();
        thread.join().unwrap();
    })
}

#[test]
fn pictures_are_those_of_the_network_here() {
    if !is_ready() {
        return;
    }
    let (address, end) = serve();
    let paint = |others: &str| {
        let rig = Rig::new(&of_tiny(&format!("t-index=20,32,45 prompt=\"a fox\" {others}")), SQUARE).play();
        (0..5).for_each(|index| rig.push(index, SQUARE));
        let pictures = rig.finish();
        let stats = rig.filter.property::<gst::Structure>("stats");
        (pictures, stats.get::<String>("provider").unwrap())
    };
    let (here, there) = (paint(""), paint(&format!("unet-server={address}")));
    assert_eq!((here.1.as_str(), there.1.as_str()), ("cpu", "cpu+remote"));
    assert!(here.0.len() == 5 && here.0 == there.0);
    end();
}

#[test]
fn a_pipeline_that_waits_for_the_server_can_be_stopped() {
    if !is_ready() {
        return;
    }
    let (address, end) = serve();
    let rig = Rig::new(&of_tiny(&format!("t-index=45 unet-server={address}")), SQUARE).play();
    rig.push(0, SQUARE);
    rig.pull().unwrap();
    end();
    rig.push(1, SQUARE);
    rig.push(2, SQUARE);
    wait(500);
    // Otherwise it would take the minute for which a server is waited for, at the end of which that is an error.
    rig.pipeline.set_state(gst::State::Ready).unwrap();
    assert_eq!((rig.pipeline.current_state(), rig.error()), (gst::State::Ready, None));
    let error = Rig::new(&of_tiny(&format!("unet-server={address}")), SQUARE);
    assert!(error.pipeline.set_state(gst::State::Playing).is_err());
    let (what, hint) = error.error().unwrap();
    assert!(what.contains("is not there") && !hint.is_empty(), "{what}; {hint}");
}
