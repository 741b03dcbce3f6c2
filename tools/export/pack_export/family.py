"""What a model is for, and the defaults that follow."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Family:
    """A way to be run in few steps, as parameters of the engine."""

    name: str
    title: str
    defaults: dict


# A Turbo model was distilled for one to four steps without guidance; its step is x0 = (x − S·ε)/A. 35,45 are the steps of
# the reference's demo with SD-Turbo (ARCHITECTURE.md, "The plan").
TURBO = Family("turbo", "Turbo", {"t-index": [35, 45], "scheduler": "turbo", "cfg": "none", "guidance": 1.0})
# An LCM-LoRA was distilled without guidance; the residual kind of 1.2 is what the reference's README runs with it.
LCM = Family("lcm", "LCM", {"t-index": [32, 45], "scheduler": "lcm", "cfg": "self", "guidance": 1.2})
# A whole LCM takes the guidance scale as an input; 8.5 is diffusers' default for these.
LCM_GUIDED = Family("lcm", "LCM with a guidance input", {"t-index": [32, 45], "scheduler": "lcm", "cfg": "none", "guidance": 8.5})
# Not distilled: the engine runs it, but a few steps of it are mush.
PLAIN = Family("sd", "not distilled", {"t-index": [16, 24, 32, 40], "scheduler": "dpmpp-2m", "cfg": "self", "guidance": 2.0})


def of(pipe, options):
    """The family: as asked for, else by the LCM-LoRA, the guidance input, or the scheduler that the model names."""
    guided = pipe.unet.config.get("time_cond_proj_dim") is not None
    scheduler = pipe.scheduler
    trailing = scheduler.config.get("timestep_spacing") == "trailing"
    if options.family != "auto":
        named = {"sd": PLAIN, "turbo": TURBO, "lcm": LCM_GUIDED if guided else LCM}
        return named[options.family]
    if guided:
        return LCM_GUIDED
    if options.lcm_lora or type(scheduler).__name__ == "LCMScheduler":
        return LCM
    # SD-Turbo has EulerDiscreteScheduler, SDXL-Turbo EulerAncestralDiscreteScheduler, both trailing; their elders lead.
    if type(scheduler).__name__.startswith("Euler") and trailing:
        return TURBO
    return PLAIN
