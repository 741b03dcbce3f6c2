// The page as a person uses it, in Chromium with a clip for a camera.
//
// node page.test.mjs BINARY PROJECT OUT: the livediffusion binary, the folder it runs in, where screenshots go.
// Exit code 77: something that the test needs is missing.

import { execFileSync, spawn } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

const [binary, project, out] = process.argv.slice(2);
const CHROMIUM = process.env.CHROMIUM ?? "/usr/bin/chromium";
// Nothing here is about speed: on a busy machine everything may take its time.
const PATIENCE = 90_000;

function skip(why) {
  console.log(`skipped: ${why}`);
  process.exit(77);
}

if (!existsSync(CHROMIUM)) skip(`no browser at ${CHROMIUM}`);
const { chromium } = await import("playwright-core").catch(() => skip("playwright-core is not installed: npm ci"));

const work = mkdtempSync(join(tmpdir(), "livediffusion-page-"));
const clip = join(work, "camera.mjpeg");
const pipeline = `filesrc location=${join(project, "assets/bigbuckbunny.mp4")} ! decodebin3 ! videoconvert ! videoscale ! video/x-raw,width=320,height=180 ! jpegenc ! filesink location=${clip}`;
execFileSync("gst-launch-1.0", ["-q", ...pipeline.split(" ")], { stdio: "inherit" });
mkdirSync(out, { recursive: true });

// A server, and its address when it is ready.
let server = null;
async function serve(port) {
  server = spawn(binary, ["webcam", "--bind", `127.0.0.1:${port}`, "--max-sessions", "4"], { cwd: project });
  server.stderr.pipe(process.stderr);
  const child = server;
  const address = await new Promise((done, fail) => {
    child.stdout.once("data", (data) => done(String(data).trim()));
    child.once("exit", (code) => fail(new Error(`the server ended with ${code}`)));
  });
  return new URL(address);
}

async function kill() {
  const gone = new Promise((done) => server.once("exit", done));
  server.kill("SIGKILL");
  await gone;
}

let checks = 0;
function check(what, is, detail = "") {
  if (!is) throw new Error(`${what}: ${detail}`);
  console.log(`ok ${++checks} ${what} ${detail}`);
}

const state = (page) => page.evaluate(() => window.__livediffusion);
const until = (page, condition, argument) => page.waitForFunction(condition, argument, { timeout: PATIENCE });

// Mean distance of the colours from grey, 0 to 255, and the picture's bytes in a few places.
const colour = (page) =>
  page.evaluate(() => {
    const canvas = document.getElementById("output");
    const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    let sum = 0;
    for (let at = 0; at < data.length; at += 4) sum += Math.max(data[at], data[at + 1], data[at + 2]) - Math.min(data[at], data[at + 1], data[at + 2]);
    return { saturation: (sum * 4) / data.length, sample: Array.from(data.filter((_, at) => at % 4001 === 0)).join() };
  });

async function untilColour(page, isRight) {
  for (const begun = performance.now(); performance.now() - begun < PATIENCE; ) {
    const { saturation } = await colour(page);
    if (isRight(saturation)) return saturation;
    await page.waitForTimeout(200);
  }
  return NaN;
}

// The text chunks of a PNG.
function texts(png) {
  const found = {};
  for (let at = 8; at < png.length; ) {
    const length = png.readUInt32BE(at);
    if (png.toString("latin1", at + 4, at + 8) === "iTXt") {
      const body = png.subarray(at + 8, at + 8 + length);
      const end = body.indexOf(0);
      found[body.toString("latin1", 0, end)] = body.toString("utf8", end + 5);
    }
    at += 12 + length;
  }
  return found;
}

const flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream", `--use-file-for-fake-video-capture=${clip}`];
const browser = await chromium.launch({ executablePath: CHROMIUM, args: flags });
try {
  const url = await serve(0);
  const context = await browser.newContext({ viewport: { width: 1360, height: 860 }, colorScheme: "dark", acceptDownloads: true });
  const page = await context.newPage();
  const errors = [];
  page.on("pageerror", (error) => errors.push(error.message));
  page.on("console", (message) => message.type() === "error" && errors.push(message.text()));
  await page.goto(url.href);

  await until(page, () => window.__livediffusion.pictures > 3);
  const before = await colour(page);
  const { pictures } = await state(page);
  await until(page, (pictures) => window.__livediffusion.pictures > pictures + 8, pictures);
  check("output frames change", (await colour(page)).sample !== before.sample);

  await page.fill("#prompt", "oil painting");
  const painted = await untilColour(page, (saturation) => saturation > 40);
  check("oil is colourful", painted > 40, painted.toFixed(0));
  await page.fill("#prompt", "pencil sketch");
  const drawn = await untilColour(page, (saturation) => saturation < 20);
  check("a pencil sketch is not", drawn < 20, drawn.toFixed(0));

  await until(page, () => [...document.querySelectorAll("#presets img")].every((image) => !image.hidden));
  check("every style is shown as one's own frame", (await page.locator("#presets img").count()) >= 20);
  await page.screenshot({ path: join(out, "dark.png") });
  await page.click("#wipe");
  await page.emulateMedia({ colorScheme: "light" });
  await page.screenshot({ path: join(out, "light-wipe.png") });
  // In one over the other the painted picture is the upper one, swapped or not: both are seen.
  const upper = () => page.evaluate(() => ["input-figure", "output-figure"].map((id) => Number(getComputedStyle(document.getElementById(id)).order)));
  await page.click("#swap");
  const [below, above] = await upper();
  check("wipe shows both pictures when they are swapped", below <= above, `${below} ${above}`);
  await page.screenshot({ path: join(out, "light-wipe-swapped.png") });
  await page.click("#swap");
  await page.click("#wipe");
  await page.emulateMedia({ colorScheme: "dark" });

  const snapshot = async () => {
    const download = page.waitForEvent("download");
    await page.click("#snapshot");
    const file = await download;
    const path = join(work, "snapshot.png");
    await file.saveAs(path);
    return texts(readFileSync(path));
  };
  const text = await snapshot();
  check("a snapshot carries its parameters", JSON.parse(text.livediffusion).prompt === "pencil sketch" && text.Description === "pencil sketch");
  await page.click("#freeze");
  await page.fill("#prompt", "oil painting");
  await until(page, () => window.__livediffusion.parameters.prompt === "oil painting");
  check("those of a frozen picture are its own", (await snapshot()).Description === "pencil sketch");
  await page.click("#freeze");
  await page.fill("#prompt", "pencil sketch");
  await until(page, () => window.__livediffusion.parameters.prompt === "pencil sketch");
  await page.click("#bypass");
  await until(page, () => {
    const [input, output] = ["input", "output"].map((id) => document.getElementById(id).toDataURL());
    return input === output;
  });
  const through = await snapshot();
  check("and a picture that is not painted has none", through.Software === "livediffusion" && !("livediffusion" in through) && !("Description" in through));
  await page.click("#bypass");

  const recording = page.waitForEvent("download");
  await page.click("#record");
  const red = await page.evaluate(() => getComputedStyle(document.getElementById("record")).backgroundColor);
  check("recording is red", red === "rgb(229, 72, 77)", red);
  await page.click("#record");
  check("and is kept", (await recording).suggestedFilename().endsWith(".webm"));

  // What the server refuses is neither shown nor asked for again, and takes nothing else with it.
  check("what is for a ControlNet is not there without one", (await page.locator("#p-control-scale, #p-show-control").count()) === 0 && (await page.locator("#p-delta").count()) === 1);
  const { guidance } = (await state(page)).parameters;
  await page.locator("#p-guidance").fill("99");
  await page.locator("#p-guidance").press("Enter");
  await until(page, () => !document.getElementById("message").hidden);
  const refusal = await page.textContent("#message");
  check("a refusal speaks of no flags", refusal.includes("guidance takes a number") && !refusal.includes("--"), refusal);
  check("what is in force is shown", (await page.inputValue("#p-guidance")) === guidance, guidance);
  const kept = () => page.evaluate(() => JSON.parse(localStorage.getItem("livediffusion.parameters")));
  check("what was refused is not kept", !("guidance" in (await kept())));
  await page.evaluate(() => localStorage.setItem("livediffusion.parameters", JSON.stringify({ prompt: "pencil sketch", guidance: "99", delta: "0.9" })));
  await page.reload();
  await until(page, () => window.__livediffusion.parameters.delta === "0.9" && window.__livediffusion.pictures > 3);
  check("one bad value does not throw away the others", (await state(page)).parameters.prompt === "pencil sketch" && !("guidance" in (await kept())), JSON.stringify(await kept()));
  check("what Not this needs is said", await page.isVisible("#negative-idle"));
  await page.selectOption("#p-cfg", "full");
  await page.locator("#p-guidance").fill("2");
  await page.locator("#p-guidance").press("Enter");
  await until(page, () => document.getElementById("negative-idle").hidden);
  await page.locator("#lock").scrollIntoViewIfNeeded();
  const stage = await page.locator("#stage").boundingBox();
  check("the pictures stay in sight beside the settings", stage.y >= 0 && stage.y + stage.height <= 860, JSON.stringify(stage));
  await page.screenshot({ path: join(out, "settings.png") });
  await page.click("#defaults");
  await until(page, () => window.__livediffusion.parameters.prompt === "" && window.__livediffusion.parameters.delta !== "0.9");
  check("defaults are one press away", Object.keys(await kept()).length === 0);
  await page.fill("#prompt", `pencil sketch ${"of a house ".repeat(15)}at night`);
  await until(page, () => !document.getElementById("prompt-unused").hidden);
  check("what of a long prompt is not seen is said", /does not see: “.*house at night”/.test(await page.textContent("#prompt-unused")), await page.textContent("#prompt-unused"));
  await page.fill("#prompt", "pencil sketch");
  await until(page, () => window.__livediffusion.parameters.prompt === "pencil sketch");
  await until(page, () => document.getElementById("prompt-unused").hidden);

  // There is one camera only: the way back to it is no choice among several.
  await page.setInputFiles("#file-input", join(project, "assets/bigbuckbunny.mp4"));
  await until(page, () => document.getElementById("input-caption").textContent === "video");
  check("a file is the source", (await page.getAttribute("#file", "aria-pressed")) === "true" && !(await page.isVisible("#device")));
  await page.click("#camera");
  await until(page, () => document.getElementById("input-caption").textContent === "you");
  check("and the camera again", (await page.getAttribute("#camera", "aria-pressed")) === "true");

  await page.locator("#prompt").blur();
  await page.keyboard.press("b");
  check("keys work", (await page.getAttribute("#bypass", "aria-pressed")) === "true");
  await page.keyboard.press("Shift+B");
  check("with Caps Lock too", (await page.getAttribute("#bypass", "aria-pressed")) === "false");
  await page.keyboard.press("?");
  check("and a sheet lists them", await page.locator("#sheet").isVisible());
  await page.screenshot({ path: join(out, "help.png") });
  await page.keyboard.press("Escape");

  await page.setViewportSize({ width: 390, height: 844 });
  const [wide, inner] = await page.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
  check("it fits on a phone", wide <= inner, `${wide} of ${inner}`);
  await page.screenshot({ path: join(out, "phone.png") });
  await page.setViewportSize({ width: 1360, height: 860 });
  check("no errors on the console", errors.length === 0, errors.join("; "));

  await kill();
  await until(page, () => window.__livediffusion.state === "away" && !document.getElementById("veil").hidden);
  await page.screenshot({ path: join(out, "away.png") });
  const old = await state(page);
  await serve(url.port);
  await until(page, ({ session, pictures }) => window.__livediffusion.session !== session && window.__livediffusion.pictures > pictures + 3, old);
  const recovered = await untilColour(page, (saturation) => saturation < 20);
  check("it recovers with its prompt when the server is back", recovered < 20 && (await state(page)).parameters.prompt === "pencil sketch", recovered.toFixed(0));

  const others = [];
  for (let count = 0; count < 4; count++) {
    const other = await (await browser.newContext({ viewport: { width: 800, height: 600 } })).newPage();
    await other.goto(url.href);
    others.push(other);
    if (count < 3) await until(other, () => window.__livediffusion.state === "live");
  }
  const fifth = others.pop();
  await until(fifth, () => window.__livediffusion.state === "waiting" && !document.getElementById("veil").hidden);
  check("the fifth of four waits in line", (await fifth.textContent("#veil-hint")).includes("next"));
  await fifth.screenshot({ path: join(out, "waiting.png") });
  await others[0].close();
  await until(fifth, () => window.__livediffusion.state === "live" && window.__livediffusion.pictures > 0);
  check("and gets in when one leaves", true);
  const blind = await (await browser.newContext({ viewport: { width: 390, height: 844 } })).newPage();
  await blind.addInitScript(() => (navigator.mediaDevices.getUserMedia = () => Promise.reject(new DOMException("", "NotFoundError"))));
  await blind.goto(url.href);
  await until(blind, () => window.__livediffusion.state === "waiting");
  await others[1].close();
  await until(blind, () => window.__livediffusion.state === "live" && document.getElementById("veil-title").textContent.includes("camera"));
  const veil = await blind.textContent("#veil-title");
  check("who has no camera reads so when there is a place", veil === "No camera was found" && (await blind.isVisible("#veil-button")), veil);
  check("and hears it", (await blind.textContent("#said")).includes(veil));
  await blind.screenshot({ path: join(out, "no-camera.png") });
  console.log(`${checks} checks`);
} finally {
  await browser.close();
  server?.kill("SIGKILL");
  rmSync(work, { recursive: true, force: true });
}
