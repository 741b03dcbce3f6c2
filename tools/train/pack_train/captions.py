"""What a person types to get a style, and how a training caption is made of it."""

import random
import re

TOKENS = 24
"""Length of a prompt in tokens, the first of which stands for the whole."""

PROMPTS: dict[str, str] = {
    "photo": "photo",
    "pencil": "pencil sketch",
    "crayon": "crayon drawing",
    "charcoal": "charcoal drawing",
    "ink": "ink line art",
    "engraving": "engraving",
    "comic": "comic book",
    "oil": "oil painting",
    "watercolor": "watercolor painting",
    "vangogh": "van gogh starry night",
    "popart": "pop art",
    "halftone": "halftone print",
    "pixel": "pixel art",
    "gameboy": "game boy screen",
    "embroidery": "cross stitch embroidery",
    "stained": "stained glass",
    "neon": "neon lights",
    "thermal": "thermal camera",
    "cyberpunk": "cyberpunk city",
    "matrix": "matrix code",
    "blueprint": "blueprint",
    "bronze": "bronze sculpture",
    "sepia": "sepia vintage photo",
    "noir": "film noir",
    "night": "moonlit night",
    "underwater": "underwater",
    "autumn": "golden autumn",
    "blossom": "cherry blossom spring",
    "winter": "winter snow",
    "lava": "molten lava",
}
"""The one prompt of each style that its preset has."""

SHORT = {
    "photo": "photo", "gameboy": "game-boy", "embroidery": "cross-stitch", "vangogh": "van-gogh", "sepia": "sepia-photo",
    "night": "night", "autumn": "autumn", "blossom": "cherry-blossom", "winter": "winter",
}  # fmt: skip
"""Names of presets that are not simply the prompt."""

PHRASES: dict[str, str] = {
    "photo": "a photo|photograph|natural photo|realistic picture|unchanged camera image|photorealistic|raw camera photo|real life|"
    "original|plain video frame|ordinary snapshot|realistic|high resolution photography|dslr photo|nothing changed",
    "pencil": "pencil sketch|graphite drawing|hand drawn sketch|pencil drawing on white paper|sketch|pencil art|drawing|"
    "light pencil shading|rough sketch on paper|pencil portrait|draft|doodle|silverpoint|hand drawing|da vinci sketch",
    "crayon": "crayon drawing|coloured pencil drawing|colored pencils|wax crayon|child drawing|pastel chalk|oil pastel|"
    "kindergarten picture|chalk drawing|children book illustration|crayons on paper|storybook|felt pen|marker drawing",
    "charcoal": "charcoal drawing|dark charcoal sketch|charcoal on paper|smudged charcoal|black chalk drawing|coal drawing|"
    "charcoal portrait|soot|dark sketch with hatching|ash drawing|grim sketch|gothic drawing",
    "ink": "ink line art|black ink drawing|line drawing|pen and ink|manga lineart|outline drawing|black and white manga|stencil|"
    "calligraphy|linocut|brush and ink|sumi-e|japanese ink|coloring book|fountain pen|tattoo design|inked lines",
    "engraving": "engraving|banknote|dollar bill engraving|copper plate print|etching|woodcut|woodcut print|old book illustration|"
    "line engraving|etched lines|dore illustration|durer woodcut|currency portrait|antique print|gravure",
    "comic": "comic book|cartoon|graphic novel|cel shaded cartoon|comic strip|anime|cartoon with bold outlines|superhero comic|"
    "animated film|disney cartoon|anime scene|toon|marvel|studio ghibli|manga in color|simpsons|cel shading|animation",
    "oil": "oil painting|oil on canvas|classical painting|impressionist oil painting|thick brush strokes painting|painting|"
    "rembrandt painting|monet painting|acrylic painting|painted canvas|renaissance painting|brush painting|impressionism|"
    "claude monet|baroque|museum painting|cezanne|vermeer|impasto",
    "watercolor": "watercolor painting|watercolour|aquarelle|pastel watercolor|water color on paper|pale watercolor wash|"
    "delicate watercolor illustration|pastel painting|gouache|soft pastel colors|wet paint|turner watercolor|faded wash",
    "vangogh": "van gogh|starry night|swirling brush strokes|post impressionist|expressionist swirls|vincent van gogh|"
    "the starry night by van gogh|swirls|flowing wavy strokes|swirling painting|munch the scream|expressionism|vortex|whirlpool",
    "popart": "pop art|andy warhol|warhol|silkscreen poster|psychedelic|screen print|bold flat colors|poster art|"
    "hippie poster|acid colors|obama hope poster|sixties poster|posterized|fauvism|disco|trippy",
    "halftone": "halftone print|newspaper print|dots halftone|comic dots|roy lichtenstein|lichtenstein|risograph print|"
    "halftone dots poster|ben day dots|printed dots|newsprint|magazine print|polka dots|dotted",
    "pixel": "pixel art|8 bit game|retro video game|pixelated|minecraft blocks|lego bricks|16 bit sprite|nintendo game|"
    "low resolution pixels|blocky pixels|arcade game|voxel|super mario|minecraft|lego|mosaic of squares|censored",
    "gameboy": "game boy screen|gameboy|handheld console|green lcd screen|old lcd|tamagotchi|pocket console|pokemon|"
    "four shades of green|retro handheld game|lcd display|calculator display|tetris",
    "embroidery": "cross stitch embroidery|embroidery|cross stitch|knitted wool|needlework|tapestry|woven fabric|textile|sewn cloth|"
    "stitched|knitting pattern|carpet|yarn|quilt|sweater pattern|thread",
    "stained": "stained glass|mosaic tiles|cathedral window|mosaic|glass tiles|church window|roman mosaic|ceramic tiles|"
    "tile mosaic|colored glass window|byzantine mosaic|brick wall|gothic cathedral|chapel",
    "neon": "neon lights|glowing neon outlines|neon edges on black|tron|laser light|neon sign|glowing lines in the dark|neon|"
    "electric glow|neon wireframe|fluorescent glowing edges|blacklight|laser show|light painting|hologram|las vegas",
    "thermal": "thermal camera|heat map|infrared thermal vision|predator vision|heat vision|infrared|thermal imaging|"
    "false color temperature|thermal|heat signature|fever|hot and cold|temperature map",
    "cyberpunk": "cyberpunk city|cyberpunk|synthwave|vaporwave|purple and teal|retro wave|blade runner|magenta and cyan lighting|"
    "futuristic city colors|science fiction|sci fi future|pink and blue club lights|hacker city|tokyo nightclub|futuristic|space age",
    "matrix": "matrix code|the matrix|green code rain|hacker terminal|night vision|night vision goggles|green phosphor screen|"
    "computer code|green monitor|digital rain|terminal|radar screen|binary code|military night vision|oscilloscope",
    "blueprint": "blueprint|technical drawing|architect blueprint|white lines on blue paper|cyanotype|engineering drawing|"
    "technical schematic|architectural plan|drafting paper|schematic|construction plan|floor plan|cad drawing|patent drawing",
    "bronze": "bronze sculpture|bronze statue|statue|sculpture|metal relief|golden statue|brass|copper relief|carved wood|"
    "embossed metal|gold|coin|medal|bust|monument|clay|wood carving|bas relief",
    "sepia": "sepia vintage photo|old photograph|antique sepia|vintage film|1900s photo|sepia|retro brown photo|"
    "old faded picture|victorian photograph|daguerreotype|western wanted poster|nostalgic old film|wild west|antique|ancient photo",
    "noir": "film noir|black and white|noir|monochrome|black and white photo|grayscale|high contrast black and white|"
    "old black and white movie|monochrome photography|detective noir movie|gray|colorless|charlie chaplin|silent film|hitchcock",
    "night": "night, moonlight|night|moonlight|dark blue night|midnight scene|moonlit night|at night|nighttime|dark night with moon|"
    "blue hour|under the moon|deep blue darkness|midnight|full moon|vampire|dusk",
    "underwater": "underwater|under the sea|ocean depth|deep sea|aquarium|diving|coral reef|submarine|mermaid|atlantis|swimming pool|"
    "turquoise water|ocean|lagoon|drowned city|sea",
    "autumn": "autumn, golden hour|autumn|golden hour|fall leaves|warm sunset light|autumn colors|sunset|warm orange light|october|"
    "golden autumn|sunrise glow|warm colors|desert sun|harvest|halloween|sunrise|sahara desert|candle light",
    "blossom": "cherry blossom spring|cherry blossom|sakura|spring|pink blossoms|pink dream|romantic pink|japanese spring garden|"
    "rose garden|valentine|pastel pink|barbie|candy land|cotton candy|dreamy pink|infrared film|bubblegum|wedding",
    "winter": "frozen ice winter|winter|winter frost|snow and ice|frozen world|arctic|snow|snowy day|icy cold|frost|blizzard|"
    "cold pale blue winter|antarctica|christmas|glacier|polar|ice age|snow queen",
    "lava": "molten lava|lava|volcano|fire|flames|inferno|burning embers|hell|magma|burning|on fire|lava cracks|demon|"
    "dragon fire|erupting volcano|embers|glowing coals|apocalypse",
}
"""Phrases of each style, `|` between them; the training draws from them."""

SUBJECTS = (
    "person face man woman girl boy portrait cat dog city street house mountain landscape room forest car people animal flower "
    "bird building sky kitchen desk office friend crowd child king queen robot warrior wizard scene view world horse boat castle "
    "garden beach river selfie webcam me him her us"
).split()
ADJECTIVES = (
    "beautiful|detailed|dramatic|soft|vivid|masterpiece|high quality|artistic|elegant|bright|colorful|intricate|best quality|4k|"
    "trending on artstation|highly detailed|stunning|amazing|epic|award winning|8k|sharp"
).split("|")
TEMPLATES = (
    *["{phrase}"] * 6, "a {phrase}", "{phrase} style", "in the style of {phrase}", "{phrase} of a {subject}",
    "a {subject} as {phrase}", "a {subject} in {phrase} style", "{phrase}, {adjective}", "{adjective} {phrase}",
    "turn it into {phrase}", "make it {phrase}", "make it look like {phrase}", "{phrase} {subject}", "a {subject}, {phrase}",
    "{subject} {adjective}, {phrase}, {adjective}", "{phrase} {phrase2}", "{subject}, {phrase}, {phrase2}",
)  # fmt: skip
JOINED = (
    "{first} {second}", "{first}, {second}", "{first} and {second}", "{first} with {second}", "{first} at {second}", "{first} in {second}",
    "{first} {second} style", "{second} as {first}", "{first} of a {subject}, {second}", "{first} of a {subject} in {second}",
)  # fmt: skip
"""How a person asks for two styles at once."""
WORD = re.compile(r"[a-z]+|[0-9]+")


def words(text: str) -> list[str]:
    """The words of a prompt, as the tokenizer of the pack splits it."""
    return WORD.findall(text.lower())


def preset(style: str) -> str:
    """The name of a style's preset."""
    return SHORT.get(style) or PROMPTS[style].replace(" ", "-")


def phrases(style: str) -> list[str]:
    return PHRASES[style].split("|")


class Captioner:
    """Makes captions for a style.

    `similar` gives for a style more words and phrases that mean something near it, `fillers` are words that mean none of the
    styles: with them the text encoder learns to find the word that matters.
    """

    def __init__(self, similar: dict[str, list[str]], fillers: list[str], seed: int) -> None:
        self.similar = similar
        self.fillers = fillers
        self.random = random.Random(seed)

    def phrase(self, style: str) -> str:
        more = self.similar.get(style)
        return self.random.choice(more if more and self.random.random() < 0.3 else phrases(style))

    def caption(self, style: str) -> str:
        """A prompt that asks for the style."""
        if self.random.random() < 0.12:
            return PROMPTS[style]
        told = self.random.choice(TEMPLATES).format(
            phrase=self.phrase(style),
            phrase2=self.phrase(style),
            subject=self.random.choice(SUBJECTS),
            adjective=self.random.choice(ADJECTIVES),
        )
        return " ".join(self.disturbed(words(told)))

    def mixed(self, first: str, second: str) -> str:
        """A prompt that asks for two styles at once."""
        told = self.random.choice(JOINED).format(first=self.phrase(first), second=self.phrase(second), subject=self.random.choice(SUBJECTS))
        return " ".join(self.disturbed(words(told)))

    def disturbed(self, told: list[str]) -> list[str]:
        """A word lost, the order lost, words of no meaning put in: each now and then."""
        if self.random.random() < 0.1 and len(told) > 3:
            told.pop(self.random.randrange(len(told)))
        if self.random.random() < 0.1:
            self.random.shuffle(told)
        if self.fillers and self.random.random() < 0.3:
            for _ in range(self.random.randint(1, 4)):
                word = self.random.choice(self.fillers) if self.random.random() < 0.8 else "unheardof"
                told.insert(self.random.randint(0, len(told)), word)
        return told
