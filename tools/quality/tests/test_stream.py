"""The stream, the classifier, the faces and the held-out pictures, on networks and pictures whose outcome is known."""

import json

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from tokenizers import Tokenizer, models, pre_tokenizers

from pack_quality import faces, held_out, metrics, sheets
from pack_quality.classify import Classifier, features, worn
from pack_quality.stream import Stream, TIndex

ONE = TIndex((47,))
SCHEDULE = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "num_train_timesteps": 1000,
    "original_inference_steps": 50,
    "timestep_scaling": 10.0,
}


def network(path, inputs, output, nodes, constants=()):
    made = [helper.make_tensor_value_info(name, kind, [None] * rank) for name, kind, rank in inputs]
    out = [helper.make_tensor_value_info(output[0], TensorProto.FLOAT, [None] * output[1])]
    graph = helper.make_graph(nodes, "made", made, out, initializer=list(constants))
    path.parent.mkdir(parents=True)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, str(path))


@pytest.fixture(scope="module")
def pack(tmp_path_factory):
    """A pack whose autoencoder keeps pictures as they are, and whose U-Net says that there is no noise at all."""
    pack = tmp_path_factory.mktemp("pack")
    image = [("sample", TensorProto.FLOAT, 4)]
    network(pack / "vae_encoder/model.onnx", image, ("latent", 4), [helper.make_node("Identity", ["sample"], ["latent"])])
    latent = [("latent_sample", TensorProto.FLOAT, 4)]
    network(pack / "vae_decoder/model.onnx", latent, ("out", 4), [helper.make_node("Identity", ["latent_sample"], ["out"])])
    inputs = [*image, ("timestep", TensorProto.INT64, 1), ("encoder_hidden_states", TensorProto.FLOAT, 3)]
    nil = helper.make_tensor("nil", TensorProto.FLOAT, [1], [0.0])
    network(pack / "unet/model.onnx", inputs, ("eps", 4), [helper.make_node("Mul", ["sample", "nil"], ["eps"])], [nil])
    ids = [("input_ids", TensorProto.INT64, 2)]
    to_float = helper.make_node("Cast", ["input_ids"], ["flat"], to=TensorProto.FLOAT)
    axis = helper.make_tensor("axis", TensorProto.INT64, [1], [2])
    deeper = helper.make_node("Unsqueeze", ["flat", "axis"], ["hidden"])
    network(pack / "text_encoder/model.onnx", ids, ("hidden", 3), [to_float, deeper], [axis])
    for folder, told in (("vae_decoder", {"scaling_factor": 2.0, "shift_factor": 0.5}), ("scheduler", SCHEDULE)):
        (pack / folder).mkdir(exist_ok=True)
        name = "scheduler_config.json" if folder == "scheduler" else "config.json"
        (pack / folder / name).write_text(json.dumps(told))
    words = Tokenizer(models.WordLevel({"[UNK]": 0, "noir": 1}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    (pack / "tokenizer").mkdir()
    words.save(str(pack / "tokenizer/tokenizer.json"))
    return pack


@pytest.fixture(scope="module")
def stream(pack):
    return Stream(pack, 1)


def picture(seed: int = 1) -> np.ndarray:
    noise = np.random.default_rng(seed).random((32, 32, 3)).astype(np.float32)
    return (cv2.GaussianBlur(noise, (0, 0), 3) * 255).astype(np.uint8)


def test_indices_are_those_of_the_engine(stream, monkeypatch):
    assert stream.times(TIndex((0, 32, 47, 49))) == [999, 359, 59, 19]
    assert stream.times(TIndex((0, 9), 10)) == [999, 99]
    monkeypatch.setattr(stream, "original_steps", 100)
    assert stream.times(TIndex((0, 32, 47, 49))) == [999, 359, 59, 19]
    assert stream.times(TIndex.parse("94,96,97,98@100")) == [59, 39, 29, 19]
    for beyond in ("50", "-1", "0@101", "0@0"):
        with pytest.raises(SystemExit, match="is not in a table"):
            stream.times(TIndex.parse(beyond))


@pytest.mark.parametrize("text", ["47", "47,49", "94,98@100"])
def test_lists_of_indices_are_written_as_they_are_read(text):
    assert str(TIndex.parse(text)) == text


def test_latents_are_shifted_and_scaled_and_back(stream):
    one = picture()[None]
    assert np.abs(stream.encode(one)).max() <= 2 * 1.5
    assert np.abs(stream.decode(stream.encode(one)).astype(int) - one).max() <= 1


def test_one_step_adds_the_schedules_noise(stream):
    """A U-Net that sees no noise leaves all of it in: the error is the schedule's, and the same in every frame."""
    grey = np.full((1, 32, 32, 3), 128, np.uint8)
    (t,) = stream.times(ONE)
    painted = stream.repaint(grey, "noir", ONE)
    ratio = np.sqrt(1 - stream.alphas[t]) / np.sqrt(stream.alphas[t])
    wanted = ratio / 2.0 * 127.5
    assert abs(painted.astype(float).std() - wanted) < 0.1 * wanted
    assert np.array_equal(painted, stream.repaint(grey, "noir", ONE))


def test_later_steps_get_noise_unless_the_pack_says_no(stream, pack):
    """Left in, the noises of two steps add up; without the second, only that of the first is seen."""
    grey = np.full((1, 32, 32, 3), 128, np.uint8)
    one, two = (stream.repaint(grey, "noir", at).astype(float).std() for at in (ONE, TIndex((47, 47))))
    assert stream.add_noise and abs(two / one - 2**0.5) < 0.05
    (pack / "pack.toml").write_text("[defaults]\nadd-noise = false\n")
    quiet = Stream(pack, 1)
    assert not quiet.add_noise
    assert abs(quiet.repaint(grey, "noir", TIndex((47, 47))).astype(float).std() / one - 1) < 0.02


def test_guidance_goes_from_the_frame_to_the_prediction(stream):
    """Without is the noise itself and with is none: the prediction turns negative, which doubles the noise at 2."""
    grey = np.full((1, 32, 32, 3), 128, np.uint8)
    plain, guided = (stream.repaint(grey, "noir", ONE, guidance=value).astype(float).std() for value in (1.0, 2.0))
    assert 1.9 < guided / plain < 2.1
    negative = stream.repaint(grey, "noir", ONE, guidance=2.0, negative="photo")
    assert abs(negative.astype(float).std() - plain) < 0.01


def test_a_worn_picture_is_still_that_picture():
    whole = cv2.GaussianBlur(picture(3), (0, 0), 4)
    old = worn(whole, np.random.default_rng(1))
    assert old.shape == whole.shape and old.dtype == np.uint8
    assert 18 < metrics.psnr(whole, old) < 40
    assert np.array_equal(old, worn(whole, np.random.default_rng(1)))


def test_grey_with_the_least_cast_is_still_grey():
    grey = np.full((64, 64, 3), 100, np.uint8)
    for cast in np.eye(3, dtype=np.uint8):
        assert np.abs(features(grey) - features(grey + 2 * cast)).max() < 0.1


def test_the_classifier_tells_what_differs_and_shrugs_at_what_does_not():
    def red(seed: int) -> np.ndarray:
        return (picture(seed) * np.array([1, 0.2, 0.2])).astype(np.uint8)

    def pale(seed: int) -> np.ndarray:
        return 128 + picture(seed) // 2

    pictures = [make(seed) for seed in range(20) for make in (red, pale)]
    classifier = Classifier(pictures, [0, 1] * 20, ["red", "pale"])
    assert [classifier.style([make(99)]) for make in (red, pale)] == ["red", "pale"]
    same = Classifier([picture(seed) for seed in range(40)], [0, 1] * 20, ["one", "other"])
    right = sum(same.style([picture(200 + seed)]) == ("one", "other")[seed % 2] for seed in range(40))
    assert right < 32


def test_squares_overlap_as_they_should():
    assert faces.overlap((0, 0, 10), (0, 0, 10)) == 1
    assert faces.overlap((0, 0, 10), (10, 0, 10)) == 0
    assert abs(faces.overlap((0, 0, 10), (5, 0, 10)) - 50 / 150) < 1e-9


def test_no_face_is_found_where_there_is_none():
    detector = faces.Detector()
    flat = np.full((128, 128, 3), 90, np.uint8)
    assert detector.largest(flat) is None
    assert not detector.finds_again((10, 10, 40), flat)
    assert held_out.around_face(flat, detector) == []


def test_kinds_take_turns():
    pictures = {"animal": [np.array(3)], "face": [np.array(1), np.array(2)]}
    assert [int(picture) for picture in held_out.in_turn(pictures)] == [1, 3, 2]


def test_held_out_pictures_and_clips_are_read(tmp_path):
    (tmp_path / "photos").mkdir()
    cv2.imwrite(str(tmp_path / "photos/a.png"), np.full((80, 120, 3), (255, 0, 0), np.uint8))
    clip = cv2.VideoWriter(str(tmp_path / "photos/b.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 64))
    for index in range(20):
        clip.write(np.full((64, 64, 3), index * 10, np.uint8))
    clip.release()
    entries = [
        {"file": "photos/a.png", "kind": "animal", "held_out": True},
        {"file": "photos/gone.png", "kind": "animal", "held_out": False},
        {"file": "photos/b.avi", "kind": "clip", "held_out": True},
    ]
    (tmp_path / "manifest.json").write_text(json.dumps({"pictures": entries}))
    found = held_out.HeldOut.load(tmp_path)
    assert len(found.pictures) == 2 and not found.faces
    assert found.pictures[0].shape == (256, 256, 3) and tuple(found.pictures[0][0, 0]) == (0, 0, 255)
    assert [len(frames) for frames in found.clips] == [held_out.RUN]
    assert abs(int(found.clips[0][0][0, 0, 0]) - 100) < 4


def test_a_sheet_has_a_row_for_a_picture_and_a_column_for_a_style():
    white = np.full((256, 256, 3), 255, np.uint8)
    painted = {name: [white, white] for name in ("input", *"abcdefghijkl")}
    sheet = sheets.contact(painted, names=False)
    assert sheet.shape == (2 * 2 * sheets.CELL, (sheets.COLUMNS + 1) * sheets.CELL, 3)
    assert (sheet[: 2 * sheets.CELL] == 255).all() and (sheet[2 * sheets.CELL :, 2 * sheets.CELL :] == 0).all()
    assert (sheets.contact(painted)[: 2 * sheets.CELL] != 255).any()
