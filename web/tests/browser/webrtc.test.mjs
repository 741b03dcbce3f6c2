// WHIP and WHEP from a browser: Chromium publishes its fake camera and plays what comes back.
//
// node webrtc.test.mjs BINARY PROJECT: the livediffusion binary, the folder it runs in.
// Exit code 77: something that the test needs is missing.

import { spawn } from "node:child_process";
import { existsSync } from "node:fs";

const [binary, project] = process.argv.slice(2);
const CHROMIUM = process.env.CHROMIUM ?? "/usr/bin/chromium";
// Nothing here is about speed: on a busy machine everything may take its time.
const PATIENCE = 90_000;

function skip(why) {
  console.log(`skipped: ${why}`);
  process.exit(77);
}

if (!existsSync(CHROMIUM)) skip(`no browser at ${CHROMIUM}`);
const { chromium } = await import("playwright-core").catch(() => skip("playwright-core is not installed: npm ci"));

let checks = 0;
function check(what, is, detail = "") {
  if (!is) throw new Error(`${what}: ${detail}`);
  console.log(`ok ${++checks} ${what} ${detail}`);
}

const server = spawn(binary, ["webcam", "--bind", "127.0.0.1:0", "--max-sessions", "1", "-v"], { cwd: project });
server.stderr.pipe(process.stderr);
const address = await new Promise((done, fail) => {
  server.stdout.once("data", (data) => done(String(data).trim()));
  server.once("exit", (code) => fail(new Error(`the server ended with ${code}`)));
});

const flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync", "--autoplay-policy=no-user-gesture-required", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"];
const browser = await chromium.launch({ executablePath: CHROMIUM, args: flags });

// What runs in the page: calls, and a look at what they bring.
function inPage() {
  const calls = {};
  window.calls = calls;
  window.call = async (name, path, prepare, codec) => {
    const peer = new RTCPeerConnection();
    await prepare(peer);
    for (const transceiver of peer.getTransceivers()) {
      if (codec && (transceiver.sender.track ?? transceiver.receiver.track).kind === "video") {
        const all = RTCRtpReceiver.getCapabilities("video").codecs.filter(({ mimeType }) => [codec, "video/rtx"].includes(mimeType));
        transceiver.setCodecPreferences(all);
      }
    }
    await peer.setLocalDescription();
    while (peer.iceGatheringState !== "complete") await new Promise((done) => setTimeout(done, 50));
    const answer = await fetch(path, { method: "POST", headers: { "content-type": "application/sdp" }, body: peer.localDescription.sdp });
    const sdp = await answer.text();
    if (answer.status !== 201) throw new Error(`${answer.status} ${sdp}`);
    await peer.setRemoteDescription({ type: "answer", sdp });
    calls[name] = { peer, resource: answer.headers.get("location") };
    return calls[name].resource;
  };
  window.publish = (path, codec) =>
    window.call("publisher", path, async (peer) => {
      const stream = await navigator.mediaDevices.getUserMedia({ video: { width: 320, height: 240 }, audio: true });
      for (const track of stream.getTracks()) peer.addTransceiver(track, { direction: "sendonly", streams: [stream] });
    }, codec);
  window.play = (path, codec) =>
    window.call("viewer", path, (peer) => {
      const video = document.createElement("video");
      Object.assign(video, { muted: true, autoplay: true });
      document.body.replaceChildren(video);
      window.frames_ = 0;
      const count = () => (window.frames_++, video.requestVideoFrameCallback(count));
      video.requestVideoFrameCallback(count);
      peer.ontrack = ({ track }) => (video.srcObject = new MediaStream([track]));
      peer.addTransceiver("video", { direction: "recvonly" });
      peer.addTransceiver("audio", { direction: "recvonly" });
    }, codec);
  // What goes over the calls, for whoever must find out why nothing comes.
  window.report = async () => {
    const told = { frames: window.frames_ };
    for (const [name, { peer }] of Object.entries(calls)) {
      const all = [...(await peer.getStats()).values()];
      told[name] = [peer.connectionState, ...all.filter(({ type, kind }) => kind === "video" && /-rtp$/.test(type))];
    }
    return told;
  };
  // Mean distance of the colours from grey, 0 to 255.
  window.saturation = () => {
    const video = document.querySelector("video");
    const canvas = Object.assign(document.createElement("canvas"), { width: video.videoWidth, height: video.videoHeight });
    const context = canvas.getContext("2d");
    context.drawImage(video, 0, 0);
    const { data } = context.getImageData(0, 0, canvas.width, canvas.height);
    let sum = 0;
    for (let at = 0; at < data.length; at += 4) sum += Math.max(data[at], data[at + 1], data[at + 2]) - Math.min(data[at], data[at + 1], data[at + 2]);
    return (sum * 4) / data.length;
  };
}

async function ask(method, path, body) {
  const answer = await fetch(new URL(path, address), { method, headers: { "content-type": "application/json" }, body: body && JSON.stringify(body) });
  return method === "DELETE" ? answer.status : answer.json();
}

async function until(what, isRight, look) {
  let last;
  for (const begun = performance.now(); performance.now() - begun < PATIENCE; ) {
    last = await look();
    if (isRight(last)) return last;
    await new Promise((done) => setTimeout(done, 200));
  }
  const found = await Promise.all([ask("GET", "/api/v1/sessions"), page?.evaluate(() => window.report?.())]).catch(String);
  throw new Error(`${what}: ${JSON.stringify(last)}; ${JSON.stringify(found)}`);
}

let page;
try {
  page = await (await browser.newContext({ permissions: ["camera", "microphone"] })).newPage();
  // Any address of the server: what runs there may use it.
  await page.goto(new URL("/healthz", address).href);
  await page.evaluate(inPage);
  for (const codec of ["video/VP8", "video/H264", "video/VP9"]) {
    const has = await page.evaluate((codec) => [RTCRtpSender, RTCRtpReceiver].every((kind) => kind.getCapabilities("video").codecs.some(({ mimeType }) => mimeType === codec)), codec);
    if (!has) {
      console.log(`this browser has no ${codec}`);
      continue;
    }
    const session = await page.evaluate((codec) => publish("/whip?prompt=oil%20painting", codec), codec);
    await until("frames are painted", ([session]) => session?.frames_out > 3 && session.source === "whip", () => ask("GET", "/api/v1/sessions"));
    // VP9 comes in and does not go out.
    const watched = codec === "video/VP9" ? "" : codec;
    await page.evaluate((codec) => play("/whep", codec), watched);
    await until("pictures are played", (frames) => frames > 10, () => page.evaluate(() => frames_));
    const painted = await until("oil is colourful", (saturation) => saturation > 40, () => page.evaluate(() => saturation()));
    await ask("PATCH", `/api/v1/sessions/${session.split("/").pop()}/parameters`, { prompt: "pencil sketch" });
    const drawn = await until("a pencil sketch is not", (saturation) => saturation < 20, () => page.evaluate(() => saturation()));
    check(`${codec} is published, painted and played`, true, `${painted.toFixed(0)} -> ${drawn.toFixed(0)}`);
    if (codec === "video/VP8") {
      // One that closes without a word.
      await page.evaluate(() => Object.values(calls).forEach(({ peer }) => peer.close()));
    } else {
      check("DELETE ends it", (await ask("DELETE", session)) === 200);
    }
    await until("the session is gone", (sessions) => sessions.length === 0, () => ask("GET", "/api/v1/sessions"));
    check("the session is gone", true);
    await page.evaluate(() => Object.values(calls).forEach(({ peer }) => peer.close()));
  }
  console.log(`${checks} checks`);
} finally {
  await browser.close();
  server.kill("SIGKILL");
}
