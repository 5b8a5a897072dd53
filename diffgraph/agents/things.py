"""What kind of thing is a subject? A small dictionary from nouns to the broader word.

A page says "vehicles" where a prompt says "ambulance". A language model knows that one is the
other; without one, this list of everyday nouns does.
"""

from collections.abc import Iterator

from diffgraph.agents.words import stem, words

_NOUNS = {
    "animal": """
        animal pet beast creature critter mammal bird fish insect bug reptile amphibian rodent
        predator dog puppy hound poodle wolf fox cat kitten kitty lion tiger leopard cheetah
        panther jaguar lynx horse pony foal donkey mule zebra unicorn deer stag reindeer moose elk
        antelope gazelle bison buffalo ox bull cow calf pig hog boar piglet sheep ram lamb goat
        camel llama alpaca giraffe elephant mammoth rhino rhinoceros hippo hippopotamus mouse rat
        hamster squirrel chipmunk beaver hedgehog porcupine bat bear panda koala sloth otter skunk
        badger raccoon weasel ferret mole kangaroo wallaby monkey gorilla orangutan chimpanzee ape
        baboon lemur rabbit bunny hare turkey chicken hen rooster chick duck duckling swan goose
        eagle hawk falcon owl dove pigeon penguin parrot peacock flamingo crow raven sparrow robin
        seagull pelican stork ostrich dodo crocodile alligator turtle tortoise lizard gecko
        chameleon iguana snake cobra python dragon dinosaur sauropod brontosaurus rex frog toad
        newt salamander whale dolphin orca seal walrus narwhal shark ray octopus squid jellyfish
        crab lobster shrimp prawn oyster clam coral seahorse salmon tuna trout goldfish blowfish
        snail slug butterfly moth caterpillar ant bee honeybee bumblebee wasp beetle ladybug
        ladybird cricket grasshopper cockroach spider scorpion mosquito fly dragonfly worm
    """,
    "face": """
        face smiley emoticon grin grimace smirk frown wink expression smile
    """,
    "person": """
        person people human man men woman women boy girl child kid baby toddler adult elder grandma
        grandpa grandmother grandfather mother father parent family couple friend crowd king queen
        prince princess knight soldier guard police policeman officer detective doctor nurse
        surgeon teacher student judge farmer cook chef mechanic worker scientist technologist
        engineer singer artist painter pilot astronaut firefighter ninja pirate wizard witch mage
        fairy vampire mermaid merman elf genie zombie superhero hero villain dancer athlete runner
        surfer swimmer cyclist climber golfer bride groom santa clown builder carpenter sailor
        viking samurai monk nun cowboy hand fist finger thumb arm leg foot ear nose mouth
    """,
    "food": """
        food meal dish snack breakfast lunch dinner fruit vegetable drink beverage dessert apple
        pear orange lemon lime banana watermelon melon grape strawberry blueberry raspberry cherry
        peach mango pineapple coconut kiwi tomato avocado eggplant aubergine potato carrot corn
        pepper chili cucumber lettuce broccoli garlic onion mushroom peanut bean chestnut olive
        ginger pea bread croissant baguette pretzel bagel pancake waffle cheese meat bacon steak
        hamburger burger fries pizza sandwich taco burrito tamale kebab falafel egg omelette stew
        soup fondue salad popcorn butter salt rice curry ramen noodle noodles spaghetti pasta sushi
        dumpling tofu sausage cookie biscuit cake cupcake pie chocolate candy lollipop custard
        honey doughnut donut milk coffee tea sake wine beer cocktail juice champagne soda cream jam
    """,
    "vehicle": """
        vehicle transport car automobile taxi cab bus trolleybus minibus van truck lorry pickup
        ambulance tractor trailer racecar motorcycle motorbike scooter moped bicycle bike tricycle
        skateboard train locomotive tram metro subway monorail railway wagon carriage airplane
        aeroplane plane jet helicopter rocket spaceship spacecraft saucer ufo satellite ship boat
        sailboat speedboat canoe kayak ferry yacht submarine raft balloon airship sled sledge
        sleigh rickshaw wheelchair
    """,
    "place": """
        place landmark building house home cottage hut cabin skyscraper tower castle palace fort
        church chapel mosque synagogue temple shrine pagoda school university hospital hotel bank
        office shop store factory warehouse station stadium theatre theater museum library bridge
        fountain statue tent camp city town village street road motorway park playground carousel
        ferris rollercoaster circus barn farm mill lighthouse ruin mountain volcano desert beach
        island coast landscape garden ranch prison airport harbour harbor
    """,
    "plant": """
        plant nature tree palm evergreen pine oak cactus flower blossom rose tulip sunflower daisy
        hibiscus hyacinth lotus bouquet leaf leaves clover herb seedling grass bamboo bush fern
        moss branch wood root vine
    """,
    "weather": """
        weather sky sun moon star comet cloud rain rainbow storm lightning thunder tornado cyclone
        wind fog mist snow snowflake snowman ice fire flame water wave droplet planet earth
    """,
    "object": """
        object thing tool utensil furniture device gadget phone telephone smartphone computer
        laptop keyboard mouse printer camera television radio clock watch alarm hourglass lamp bulb
        flashlight torch candle lantern battery plug book notebook newspaper scroll envelope letter
        package box gift key lock hammer axe wrench saw screwdriver pickaxe magnet ladder scissors
        knife dagger sword shield bow gun bomb pen pencil paintbrush crayon ruler clip paperclip
        pin microscope telescope thermometer syringe pill bandage chair couch sofa bed table door
        window mirror toilet shower bathtub soap toothbrush broom bucket basket bag coin money
        wallet chest barrel bell umbrella anchor compass map vase jar amphora cup mug glass teapot
        plate bowl fork spoon chopsticks pot pan kettle razor sponge trophy medal crown gem diamond
        ring necklace headphones headphone microphone lipstick cigarette coffin bone brick gear
        chain hook calendar chart folder trash cart wand mask
    """,
    "clothing": """
        clothing clothes shirt tshirt jeans trousers pants shorts dress skirt kimono sari coat
        jacket suit vest scarf gloves socks shoe shoes boot boots sandal sandals sneaker sneakers
        heel hat cap helmet glasses sunglasses goggles backpack handbag purse tie necktie bikini
        swimsuit uniform
    """,
    "toy": """
        toy doll teddy puppet yoyo kite balloon puzzle dice
    """,
    "sport": """
        sport game ball soccer football baseball softball basketball volleyball rugby tennis
        badminton bowling hockey lacrosse golf boxing karate skiing ski skate surfing fishing
        diving darts billiards
    """,
    "music": """
        music instrument guitar violin piano trumpet saxophone accordion banjo drum flute harp
        maracas
    """,
    "symbol": """
        symbol sign arrow heart letter number cross circle square triangle flag zodiac
    """,
}
_COMPOUND_NOUNS = {
    "food": ("hot dog, ice cream, french fries, wine glass, beer mug, tropical drink, fried egg "),
    "toy": "teddy bear",
    "animal": "guide dog, praying mantis, sea horse, polar bear",
    "vehicle": "flying saucer, hot air balloon, fire engine, police car",
    "object": "shopping cart, jack-o-lantern, light bulb, computer mouse, treasure chest",
    "place": "desert island, circus tent, ferris wheel",
    "plant": "christmas tree, maple leaf, palm tree",
    "music": "musical note",
    "symbol": "red heart",
}
_COMPOUNDS = {
    compound.strip(): kind
    for kind, compounds in _COMPOUND_NOUNS.items()
    for compound in compounds.split(",")
}
_KIND_OF: dict[str, str] = {}
for _kind, _nouns in _NOUNS.items():
    for _noun in _nouns.split():
        _KIND_OF.setdefault(
            stem(_noun), _kind
        )  # the first kind is the usual one: "fishing" is a sport
_HEADS_OF_OTHERS = frozenset({"face", "head", "icon", "sign", "statue"})


def kinds_of(subject: str) -> tuple[str, ...]:
    """Return the broader words for what a subject names: `ambulance` → `vehicle`.

    The head of an English phrase is its last word, before what it comes "with": a "polar bear" is
    a bear. Two subjects joined by "and" may be of two kinds.
    """
    found = (_kind_of(part) for part in subject.lower().split(" and "))
    return tuple(dict.fromkeys(kind for kind in found if kind))


def _kind_of(phrase: str) -> str:
    found = [word for word in words(phrase.split(" with ")[0].split(" of ")[0])]
    if not found:
        return ""
    for compound in _endings(found):
        if compound in _COMPOUNDS:
            return _COMPOUNDS[compound]
    kind = _KIND_OF.get(stem(found[-1]), "")
    if found[-1] in _HEADS_OF_OTHERS and len(found) > 1:
        owner = _KIND_OF.get(stem(found[-2]), "")
        return owner if owner == "animal" else kind
    if not kind and "person" in (_KIND_OF.get(stem(word)) for word in found):
        return "person"  # "man juggling", "woman in a lotus position"
    return kind


def _endings(found: list[str]) -> Iterator[str]:
    """Yield the last three, then the last two words."""
    for count in (3, 2):
        if len(found) >= count:
            yield " ".join(found[-count:])


def is_a_thing(word: str) -> bool:
    """Tell whether a word names an everyday thing."""
    return stem(word) in _KIND_OF
