"""How fast does the offline agent read pages? python tests/benchmarks/describe.py [--pages 2000].

Prints one JSON document. The pages are made up in the size and manner of real ones: a thousand
characters of HTML, a dozen sentences of which most are not about pictures, example prompts with
weights and tags. Counted are seconds of one core, so that others may use the machine meanwhile.
"""

import argparse
import random
import time

from measuring import tell

from diffgraph.agents import OfflineAgent
from diffgraph.experts.expert import ExpertRef, ListedImage, Listing

SENTENCES = (
    "Draws {} in the manner of {}, with soft light and fine lines.",
    "Turns any subject into {}.",
    "Works well for {} and {}, at night too.",
    "If you like it, please leave a review and buy me a <a href='https://example.invalid'>coffee</a>.",
    "Recommended weight: <strong>0.{}</strong>, trigger word <code>{}</code>.",
    "Trained on {} pictures for 3000 steps with clip skip 2.",
    "Put the file into <em>models/Lora</em> and restart.",
    "<span style='color:rgb(193, 194, 197)'>Sampler DPM++ 2M Karras, CFG 7, hires fix</span>.",
    "I made this because I always wanted to see {} with {}.",
)
WORDS = """dragons castles watercolour robots portraits lanterns gardens armour neon ships harbours
forests trains cats engravings mosaics storms deserts markets kimonos""".split()


def page(number: int) -> Listing:
    draw = random.Random(number)
    text = "".join(
        f"<p>{draw.choice(SENTENCES).format(*draw.choices(WORDS, k=2))}</p>" for _ in range(12)
    )
    subject, style = draw.choices(WORDS, k=2)
    prompt = f"(masterpiece:1.2), {subject}, {style}, (red scarf:1.1), <lora:{subject}:0.8>, night"
    return Listing(
        ref=ExpertRef(source="made", model=str(number), version="1"),
        name=f"{subject.title()}{style.title()}_v{number % 9}",
        description=text,
        type="LORA",
        tags=(subject, style, "style"),
        trigger_words=(f"{subject}_style",),
        images=tuple(ListedImage(url=str(n), prompt=f"{prompt}, {n}") for n in range(3)),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--pages", type=int, default=2000)
    given = parser.parse_args()
    pages = [page(number) for number in range(given.pages)]
    agent = OfflineAgent()
    agent.describe(pages[0])
    start = time.process_time()
    for listing in pages:
        agent.describe(listing)
    taken = time.process_time() - start
    figures = {
        "pages": len(pages),
        "characters_of_markup_a_page": sum(len(p.description) for p in pages) // len(pages),
        "core_milliseconds_a_page": round(1000 * taken / len(pages), 3),
        "core_seconds_for_10000_pages": round(10_000 * taken / len(pages), 1),
    }
    tell("offline descriptions", figures)


if __name__ == "__main__":
    main()
