// Pictures and recordings to keep.

const TABLE = Uint32Array.from({ length: 256 }, (_, n) => {
  for (let bit = 0; bit < 8; bit++) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1;
  return n >>> 0;
});

function crc(bytes) {
  let value = 0xffffffff;
  for (const byte of bytes) value = TABLE[(value ^ byte) & 255] ^ (value >>> 8);
  return (value ^ 0xffffffff) >>> 0;
}

// An iTXt chunk: a keyword, no compression, no language, UTF-8.
function textChunk(keyword, text) {
  const body = new TextEncoder().encode(`iTXt${keyword}\0\0\0\0\0${text}`);
  const chunk = new Uint8Array(body.length + 8);
  const view = new DataView(chunk.buffer);
  view.setUint32(0, body.length - 4);
  chunk.set(body, 4);
  view.setUint32(body.length + 4, crc(body));
  return chunk;
}

// The canvas as a PNG that carries the parameters it was painted under, if it was, behind its first chunk (8 + 25 bytes).
export async function png(canvas, parameters) {
  const blob = await new Promise((done) => canvas.toBlob(done, "image/png"));
  const bytes = new Uint8Array(await blob.arrayBuffer());
  const texts = [textChunk("Software", "livediffusion")];
  if (parameters) texts.push(textChunk("Description", parameters.prompt ?? ""), textChunk("livediffusion", JSON.stringify(parameters)));
  return new Blob([bytes.slice(0, 33), ...texts, bytes.slice(33)], { type: "image/png" });
}

export function download(blob, ending) {
  const time = new Date().toISOString().replace(/[:T]/g, "-").slice(0, 19);
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = `livediffusion-${time}.${ending}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

export class Recorder {
  #recorder = null;

  get isOn() {
    return this.#recorder !== null;
  }

  // Begins or ends. Tells whether it records now; throws where the browser cannot.
  toggle(canvas) {
    if (this.#recorder) {
      this.#recorder.stop();
      return false;
    }
    const kind = ["video/webm;codecs=vp9", "video/webm;codecs=vp8", "video/webm"].find((kind) => globalThis.MediaRecorder?.isTypeSupported(kind));
    if (!kind) throw new Error("this browser cannot record WebM");
    const recorder = new MediaRecorder(canvas.captureStream(), { mimeType: kind, videoBitsPerSecond: 6e6 });
    const parts = [];
    recorder.ondataavailable = ({ data }) => parts.push(data);
    recorder.onstop = () => {
      this.#recorder = null;
      download(new Blob(parts, { type: "video/webm" }), "webm");
    };
    recorder.start(1000);
    this.#recorder = recorder;
    return true;
  }
}
