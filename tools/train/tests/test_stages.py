"""All stages on three drawn pictures, for seconds: that a pack comes out, that it goes on where it was, and what is refused."""

import dataclasses
import itertools
import json

import cv2
import numpy as np
import onnx
import pytest
import torch

from pack_train import muon, networks, pack, progress, qt_resources, text, tuples, unet, unpack, vae
from pack_train.captions import PROMPTS
from pack_train.styles import STYLES
from pack_train.vocabulary import DIMENSIONS, SPECIAL, Vocabulary


FILES = ("tuples.npy", "vocabulary.npz", "text.pt", "vae.pt", "unet.pt")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    (folder / "photos").mkdir()
    entries = []
    for index in range(3):
        noise = np.random.default_rng(index).random((300, 260, 3)).astype(np.float32)
        soft = cv2.GaussianBlur(noise, (0, 0), 6)
        soft = (soft - soft.min()) / (soft.max() - soft.min())
        cv2.imwrite(str(folder / f"photos/{index}.png"), (soft * 255).astype(np.uint8))
        entries.append({"file": f"photos/{index}.png", "held_out": index == 2, "weight": 1})
    (folder / "manifest.json").write_text(json.dumps({"pictures": entries}))
    return folder


def vocabulary() -> Vocabulary:
    names = [*SPECIAL, *dict.fromkeys(word for prompt in PROMPTS.values() for word in prompt.replace(",", "").split())]
    vectors = np.random.default_rng(1).standard_normal((len(names), DIMENSIONS)).astype(np.float32)
    return Vocabulary({word: place for place, word in enumerate(names)}, vectors, {}, ["stone"])


def lessons(known: Vocabulary) -> text.Lessons:
    """As the sentence model would give them, if it knew of one style by chance what another is near to."""
    texts = [prompt for prompt in PROMPTS.values() for _ in range(10)]
    scores = np.repeat(np.eye(len(PROMPTS), dtype=np.float32) * 0.8, 10, 0)
    vectors = torch.nn.functional.normalize(torch.randn(len(texts), 24), dim=-1)
    return text.Lessons(torch.tensor([known.ids(told) for told in texts]), vectors, text.shares(scores))


@pytest.fixture(scope="module")
def work(data, tmp_path_factory):
    torch.manual_seed(1)
    torch.set_num_threads(2)
    folder = tmp_path_factory.mktemp("work")
    vocabulary().save(folder / "vocabulary.npz")
    tuples.make(data, folder / "tuples.npy", 4, 1, 2)
    vae.train(folder / "tuples.npy", folder / "vae.pt", 0.15, 1)
    text.learn(vocabulary(), lessons(vocabulary()), folder / "text.pt", 1, 0.2)
    unet.train(*(folder / name for name in FILES), 0.5, 1)
    return folder


def test_held_out_pictures_are_not_trained_on(data):
    assert len(tuples.photographs(data)) == 2
    assert len(tuples.photographs(data, held_out=True)) == 1


def test_tuples_hold_the_camera_and_every_style(work):
    made = np.load(work / "tuples.npy", mmap_mode="r")
    assert made.shape == (4, 1 + len(STYLES), 256, 256, 3)
    camera, clean = made[0, 0].astype(int), made[0, 1].astype(int)
    assert 0 < np.abs(camera - clean).mean() < 12
    for place, styliser in enumerate(STYLES.values()):
        assert np.array_equal(made[0, 1 + place], styliser(made[0, 1]))


def test_training_goes_on_where_it_was_left(work, capsys):
    before = torch.load(work / "unet.pt", weights_only=True)
    assert before["step"] > 0
    unet.train(*(work / name for name in FILES), before["spent"] + 0.1, 1)
    after = torch.load(work / "unet.pt", weights_only=True)
    assert after["step"] > before["step"]


def test_a_pack_comes_out_whole(work, tmp_path):
    out = tmp_path / "pack"
    pack.write(work / "vocabulary.npz", work / "vae.pt", work / "unet.pt", out)
    for part in ("vae_encoder", "vae_decoder", "unet", "text_encoder"):
        onnx.checker.check_model(str(out / part / "model.onnx"))
    assert json.loads((out / "unet/config.json").read_text())["in_channels"] == networks.LATENTS
    assert (out / "pack.toml").read_text().count("[[presets]]") == len(STYLES)
    assert sum(file.stat().st_size for file in out.rglob("*") if file.is_file()) < 24e6
    assert not out.with_name("pack.part").exists()


def test_training_goes_on_from_a_pack(work, tmp_path):
    out = tmp_path / "pack"
    # After seconds of training some weights are still all zero, of which the exporter keeps one. After minutes none is.
    trained = {}
    for name, networks_of in (("vae", ("encoder", "decoder")), ("unet", ("unet", "text", "decoder"))):
        state = progress.load(work / f"{name}.pt")
        for part in networks_of:
            weights = (state["average"] if name == "unet" else state)[part]
            for key, weight in weights.items():
                if key not in networks.TABLES and weight.is_floating_point():
                    weight += torch.rand(weight.shape) * 0.01
        trained[name] = tmp_path / f"trained-{name}.pt"
        progress.save(state, trained[name])
    pack.write(work / "vocabulary.npz", trained["vae"], trained["unet"], out)
    made = [tmp_path / name for name in ("text.pt", "vae.pt", "unet.pt")]
    unpack.write(out, work / "vocabulary.npz", *made, {"vae": 1.0, "unet": 10.0}, 1)
    was, now = progress.load(trained["unet"]), progress.load(made[2])
    for part, weights in was["average"].items():
        for name, weight in weights.items():
            # To f16's rounding.
            torch.testing.assert_close(now["now"][part][name], weight, rtol=1e-3, atol=1e-6)
    assert now["spent"] == 7.0
    encoder = progress.load(trained["vae"])["encoder"]
    torch.testing.assert_close(progress.load(made[1])["encoder"]["linear.weight"], encoder["linear.weight"], rtol=1e-3, atol=1e-6)


def test_a_pack_with_other_words_is_not_gone_on_from(work, tmp_path):
    out = tmp_path / "pack"
    pack.write(work / "vocabulary.npz", work / "vae.pt", work / "unet.pt", out)
    file = out / "tokenizer/tokenizer.json"
    file.write_text(file.read_text().replace('"pencil"', '"pencils"'))
    with pytest.raises(SystemExit, match="another vocabulary"):
        unpack.write(out, work / "vocabulary.npz", *[tmp_path / "none.pt"] * 3, {"vae": 1.0, "unet": 10.0}, 1)


def test_a_pack_without_training_is_refused(tmp_path, work):
    with pytest.raises(SystemExit, match="no checkpoint"):
        pack.write(work / "vocabulary.npz", work / "vae.pt", tmp_path / "none.pt", tmp_path / "pack")


def test_muon_makes_updates_orthogonal():
    for shape in ((32, 96), (96, 32)):
        update = muon.orthogonal(torch.randn(shape))
        values = torch.linalg.svdvals(update)
        assert 0.5 < values.min() and values.max() < 1.4


def test_timesteps_are_mostly_small_and_later_steps_come_later():
    chance = np.random.default_rng(1)
    first, none = unet.draw_timesteps(4000, chance, later=False)
    assert none == [] and 0.5 < (first < 110).float().mean() < 0.8
    assert first.min() >= 8 and first.max() < 600
    lengths = set()
    for _ in range(40):
        last, earlier = unet.draw_timesteps(400, chance, later=True)
        times = [*earlier, last]
        assert all((before >= after).all() for before, after in itertools.pairwise(times)), "noise does not fall along the steps"
        assert last.min() >= 4 and times[0].max() <= 900
        lengths.add(len(earlier))
    assert lengths == {1, 2, 3}


def test_the_mark_is_of_its_length_and_hardly_seen():
    patches = torch.randn(4000, 48, generator=torch.Generator().manual_seed(1)) @ torch.diag(0.8 ** torch.arange(48.0))
    encoder, decoder = networks.Encoder().eval(), networks.Decoder().eval()
    networks.linear_start(encoder, decoder, patches)
    mark = unet.marked(encoder)
    assert mark.shape == (networks.LATENTS, 1, 1) and mark.norm().item() == pytest.approx(unet.MARK)
    aside = torch.linalg.qr(torch.randn(networks.LATENTS, networks.LATENTS))[0][:, 0] * unet.MARK
    latents = torch.randn(1, networks.LATENTS, 8, 8)
    with torch.no_grad():
        plain = decoder(latents)
        seen, other = ((decoder(latents + shift.reshape(-1, 1, 1)) - plain).square().mean().sqrt() for shift in (mark, aside))
    assert seen < 0.3 * other, "the decoder makes as much of the mark as of anything else"
    with torch.no_grad():
        encoder.linear.weight.mul_(1 + 1e-3 * torch.randn(encoder.linear.weight.shape))
    torch.testing.assert_close(unet.marked(encoder), mark, rtol=0, atol=0.05)  # a pack's weights are rounded


def test_a_painted_picture_is_known_and_left_as_it_is():
    """By a U-Net that has learnt nothing: a photograph is paled by what it takes for noise, what a step has painted is not."""
    net, mark = networks.UNet(), torch.randn(networks.LATENTS, 1, 1, generator=torch.Generator().manual_seed(1))
    net.attend(mark)
    photograph = networks.SCALE * torch.randn(2, networks.LATENTS, 32, 32, generator=torch.Generator().manual_seed(2))
    photograph -= photograph.mean((2, 3), keepdim=True)
    timestep, context = torch.tensor([19, 359]), torch.randn(2, networks.TOKENS, networks.TEXT)
    signal, noise = net.scales(timestep)
    with torch.no_grad():
        assert net.again(signal * photograph, signal).max() < 1e-3
        paled = photograph * (networks.SCALE * signal) ** 2 / ((networks.SCALE * signal) ** 2 + noise**2)
        torch.testing.assert_close(net.clean(signal * photograph, timestep, context), paled)
        painted = photograph + mark
        torch.testing.assert_close(net.again(signal * painted, signal), torch.ones(2, 1))
        torch.testing.assert_close(net.clean(signal * painted, timestep, context), painted)
        # And it is told so.
        for layer in (net.down0.second, net.leave):
            layer.weight.normal_(std=0.1)
        untold = net.clean(signal * painted, timestep, context)
        net.painted.normal_()
        assert not torch.allclose(net.clean(signal * painted, timestep, context), untold)


def test_a_rollout_is_the_steps_before_with_noise_between_them_or_none(work):
    trainer = unet.Trainer(vocabulary(), *(progress.load(work / name) for name in ("text.pt", "vae.pt")), 1)
    trainer.restore(progress.load(work / "unet.pt"))
    loader = unet.Loader(work / "tuples.npy", vocabulary(), trainer.text, trainer.encoder, 1)
    loader.rollouts = True
    batch = next(batch for batch in iter(loader.draw, None) if len(batch.earlier) == 2)

    def made(**changes):
        return trainer.rollout(dataclasses.replace(batch, **changes))

    trainer.chance.manual_seed(1)
    once = made(earlier=batch.earlier[:1])
    noisy_twice = made(source=once, earlier=batch.earlier[1:])
    trainer.chance.manual_seed(1)
    torch.testing.assert_close(made(renoised=True), noisy_twice)
    trainer.chance.manual_seed(1)
    quiet = made(renoised=False)
    after = trainer.chance.get_state()
    trainer.chance.manual_seed(1)
    made(earlier=batch.earlier[:1])
    assert torch.equal(after, trainer.chance.get_state()), "noise was drawn for the second step too"
    assert not torch.allclose(quiet, noisy_twice) and not torch.allclose(quiet, once)


def test_more_noise_asks_for_more_of_the_style():
    assert unet.strength(10) == 0 and unet.strength(59) == pytest.approx(1, abs=0.01)
    rising = [unet.strength(t) for t in (19, 39, 59, 99, 199, 359, 499)]
    assert rising == sorted(rising) and rising[-1] == pytest.approx(1.35, abs=0.01)


def test_later_steps_count_what_is_nearly_right_as_much_as_what_is_not():
    target = torch.zeros(4, 32, 8, 8)
    source = torch.tensor([0.1, 0.2, 0.4, 100.0]).reshape(4, 1, 1, 1).expand_as(target)
    weight = unet.gain(source[:3], target[:3])
    share = weight.flatten() * torch.tensor([0.1, 0.2, 0.4])
    assert torch.allclose(share, share.mean().expand(3)), "the same share of each error counts the same"
    weight = unet.gain(source, target).flatten()
    assert weight.min() >= 1 / unet.GAIN and weight.max() <= unet.GAIN
    assert torch.isfinite(unet.gain(target, target)).all(), "a perfect picture breaks the loss"


def test_two_styles_are_a_tone_on_a_drawing_or_halfway():
    picture = np.random.default_rng(1).integers(0, 255, (64, 64, 3), np.uint8)
    own = np.stack([picture, *(styliser(picture) for styliser in STYLES.values())])
    places = {name: place for place, name in enumerate(STYLES)}
    both = STYLES["night"](STYLES["pencil"](picture))
    assert np.array_equal(unet.mixture(own, places["pencil"], places["night"], 0.5), both)
    assert np.array_equal(unet.mixture(own, places["night"], places["pencil"], 0.5), both)
    assert np.array_equal(unet.mixture(own, places["pencil"], places["night"], 1.0), STYLES["night"](picture))
    halfway = unet.mixture(own, places["pencil"], places["ink"], 0.5).astype(int)
    assert np.abs(halfway - (STYLES["pencil"](picture).astype(int) + STYLES["ink"](picture)) / 2).max() <= 1


def test_the_linear_ways_of_the_autoencoder_are_each_others_inverse():
    patches = torch.randn(4000, 48, generator=torch.Generator().manual_seed(1)) @ torch.diag(0.8 ** torch.arange(48.0))
    encoder, decoder = networks.Encoder().eval(), networks.Decoder().eval()
    networks.linear_start(encoder, decoder, patches)
    picture = torch.nn.functional.pixel_shuffle(patches[:64].T.reshape(1, 48, 8, 8), networks.PATCH)
    with torch.no_grad():
        latents = encoder(picture)
        back = decoder(latents)
    assert 0.7 < latents.std() < 1.4
    assert (back - picture).abs().max() < 0.02
    assert torch.allclose(networks.hadamard(8) @ networks.hadamard(8).T, torch.eye(8), atol=1e-6)


def test_a_text_encoder_says_shares_of_styles_and_nothing_of_padding(work):
    known = vocabulary()
    made = networks.TextEncoder(torch.from_numpy(known.vectors), len(PROMPTS))
    made.load_state_dict(torch.load(work / "text.pt", weights_only=True)["text"])
    ids = torch.tensor([known.ids(prompt) for prompt in PROMPTS.values()])
    shares = made.weights(ids).detach()
    assert torch.allclose(shares[:, 0].sum(-1), torch.ones(len(PROMPTS)), atol=1e-4)
    assert (shares[ids == 0] == 0).all(), "padding says something"


def test_lessons_teach_which_style_a_prompt_means():
    torch.manual_seed(1)
    known = vocabulary()
    made, recall = networks.TextEncoder(torch.from_numpy(known.vectors), len(PROMPTS)), torch.nn.Linear(networks.TEXT, 24)
    lesson = text.Lesson(known, lessons(known), 1)
    optimiser = torch.optim.AdamW([p for p in [*made.parameters(), *recall.parameters()] if p.requires_grad], 1.5e-3)
    before = text.agreement(made, lesson.lessons)
    for _ in range(40):
        optimiser.zero_grad()
        text.loss(made, recall, lesson.draw()).backward()
        optimiser.step()
    assert text.agreement(made, lesson.lessons) > before + 0.3


def test_texts_that_are_near_nothing_mean_the_photograph():
    scores = np.full((1, len(PROMPTS)), 0.1, np.float32)
    assert list(PROMPTS)[int(text.shares(scores).argmax())] == "photo"


def test_wordnet_is_read_in_short_pieces(tmp_path):
    line = "00001740 03 n 02 stained_glass 0 glass 0 000 | colored glass (held by lead); used in \"church windows\"  \n"
    for file in ("data.noun", "data.adj", "data.verb"):
        (tmp_path / file).write_text("  1 the licence\n" + line)
    assert list(text.glosses(tmp_path))[:3] == ["stained glass", "colored glass ", "held by lead"]


def test_what_is_no_resource_file_is_refused(tmp_path):
    (tmp_path / "a.rcc").write_bytes(b"not a resource file at all")
    with pytest.raises(ValueError, match="not a Qt resource file"):
        list(qt_resources.files(tmp_path / "a.rcc"))
