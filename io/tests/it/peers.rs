//! Servers and peers on this machine that network streams are tested against: real ones, in processes of their own, so
//! that they can be killed.

use std::io::{BufRead, BufReader};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use livediffusion_io::{element_available, package_of};

/// Whether all of `elements` are installed; says which is not.
pub(crate) fn has(elements: &[&str]) -> bool {
    elements.iter().all(|element| needs(element))
}

/// Whether `element` is installed; says so if not.
pub(crate) fn needs(element: &str) -> bool {
    let there = element_available(element);
    if !there {
        println!("skipped: no element {element} (apt install {})", package_of(element).unwrap_or("?"));
    }
    there
}

/// A process that is killed when the test is done with it.
pub(crate) struct Peer(Child);

impl Peer {
    pub(crate) fn start(command: &mut Command) -> Option<Self> {
        command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().ok().map(Self)
    }

    /// A port that nobody has now.
    pub(crate) fn free_port() -> u16 {
        TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
    }

    /// A test picture and a tone in MPEG-TS over SRT.
    pub(crate) fn srt_sender(uri: &str) -> Self {
        let text = format!(
            "videotestsrc is-live=true ! video/x-raw,width=128,height=96,framerate=25/1 \
             ! x264enc tune=zerolatency key-int-max=25 ! h264parse ! m. \
             audiotestsrc is-live=true ! audio/x-raw,rate=48000 ! avenc_aac ! aacparse ! m. \
             mpegtsmux name=m alignment=7 latency=300000000 ! srtsink uri={uri} wait-for-connection=false sync=false"
        );
        Self::start(Command::new("gst-launch-1.0").args(text.split_whitespace()).stdout(Stdio::null())).unwrap()
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([name, &self.0.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    /// Ends it at once, as a machine does that loses its power.
    pub(crate) fn kill(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Debian's Python, which has the bindings to GStreamer that others lack.
const PYTHON: &str = "/usr/bin/python3";

/// gst-rtsp-server: gives `/test` (H.264 and AAC), takes `/record` and counts its frames on standard output.
const RTSP_SERVER: &str = r"
import sys, gi
gi.require_version('Gst', '1.0'); gi.require_version('GstRtspServer', '1.0')
from gi.repository import Gst, GstRtspServer, GLib
Gst.init(None)
server = GstRtspServer.RTSPServer(address='127.0.0.1', service=sys.argv[1])
give = GstRtspServer.RTSPMediaFactory(shared=True, launch=
    '( videotestsrc is-live=true ! video/x-raw,width=128,height=96,framerate=25/1 '
    '! x264enc tune=zerolatency key-int-max=25 ! rtph264pay name=pay0 pt=96 '
    'audiotestsrc is-live=true ! audio/x-raw,rate=48000,channels=2 ! avenc_aac ! rtpmp4gpay name=pay1 pt=97 )')
take = GstRtspServer.RTSPMediaFactory(shared=True, latency=0, transport_mode=GstRtspServer.RTSPTransportMode.RECORD,
    launch='( rtph264depay name=depay0 ! h264parse ! avdec_h264 ! identity name=seen signal-handoffs=true ! fakesink sync=false )')
def configure(factory, media):
    def seen(*args):
        print('frame', flush=True)
    media.get_element().get_by_name('seen').connect('handoff', seen)
take.connect('media-configure', configure)
mounts = server.get_mount_points()
mounts.add_factory('/test', give)
mounts.add_factory('/record', take)
server.attach(None)
print('ready', flush=True)
GLib.MainLoop().run()
";

/// An RTSP server.
pub(crate) struct RtspServer {
    peer: Peer,
    pub(crate) port: u16,
    frames: Arc<AtomicU64>,
}

impl RtspServer {
    /// On a port of its own; `None`, and a reason, where it is not installed.
    pub(crate) fn start() -> Option<Self> {
        Self::start_on(Peer::free_port())
    }

    pub(crate) fn start_on(port: u16) -> Option<Self> {
        if !has(&["rtspsrc", "x264enc", "avenc_aac"]) {
            return None;
        }
        let mut command = Command::new(PYTHON);
        command.args(["-c", RTSP_SERVER, &port.to_string()]).stdout(Stdio::piped());
        let server = Peer::start(&mut command).and_then(|mut peer| {
            let mut lines = BufReader::new(peer.0.stdout.take()?).lines();
            (lines.next()?.ok()? == "ready").then_some((peer, lines))
        });
        let Some((peer, lines)) = server else {
            println!("skipped: no RTSP server (apt install python3-gst-1.0 gir1.2-gst-rtsp-server-1.0)");
            return None;
        };
        let frames = Arc::<AtomicU64>::default();
        let counted = Arc::clone(&frames);
        std::thread::spawn(move || {
            for _ in lines.map_while(Result::ok) {
                counted.fetch_add(1, Ordering::Relaxed);
            }
        });
        Some(Self { peer, port, frames })
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("rtsp://127.0.0.1:{}/{path}", self.port)
    }

    /// Waits until so many frames were recorded, and gives how many were.
    pub(crate) fn recorded(&self, wanted: u64) -> u64 {
        for _ in 0..200 {
            if self.frames.load(Ordering::Relaxed) >= wanted {
                break;
            }
            std::thread::park_timeout(Duration::from_millis(100));
        }
        self.frames.load(Ordering::Relaxed)
    }

    pub(crate) fn kill(&mut self) {
        self.peer.kill();
    }

    /// Makes it silent, with its connections open.
    pub(crate) fn pause(&self) {
        self.peer.signal("-STOP");
    }

    pub(crate) fn go_on(&self) {
        self.peer.signal("-CONT");
    }
}

/// nginx with its RTMP module.
pub(crate) struct RtmpServer {
    peer: Peer,
    pub(crate) port: u16,
    _folder: tempfile::TempDir,
}

impl RtmpServer {
    pub(crate) fn start() -> Option<Self> {
        Self::start_on(Peer::free_port())
    }

    pub(crate) fn start_on(port: u16) -> Option<Self> {
        if !has(&["rtmp2src", "rtmp2sink", "flvmux", "x264enc"]) {
            return None;
        }
        let module = Path::new("/usr/lib/nginx/modules/ngx_rtmp_module.so");
        if !module.exists() {
            println!("skipped: no RTMP server (apt install nginx-light libnginx-mod-rtmp)");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("nginx.conf");
        let config = format!(
            "load_module {};\ndaemon off;\nmaster_process off;\nuser root;\npid {1}/pid;\nerror_log {1}/log;\n\
             events {{ worker_connections 64; }}\n\
             rtmp {{ server {{ listen 127.0.0.1:{port}; application live {{ live on; record off; }} }} }}\n",
            module.display(),
            folder.path().display()
        );
        std::fs::write(&file, config).unwrap();
        let mut command = Command::new("/usr/sbin/nginx");
        command.arg("-c").arg(&file).arg("-p").arg(folder.path()).stdout(Stdio::null());
        let peer = Peer::start(&mut command)?;
        for _ in 0..100 {
            if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return Some(Self { peer, port, _folder: folder });
            }
            std::thread::park_timeout(Duration::from_millis(50));
        }
        panic!("nginx does not start: {:?}", std::fs::read_to_string(folder.path().join("log")));
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("rtmp://127.0.0.1:{}/{path}", self.port)
    }

    pub(crate) fn kill(&mut self) {
        self.peer.kill();
    }
}
