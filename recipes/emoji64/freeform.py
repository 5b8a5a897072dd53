"""What do people ask for, and how do they say it?

The subjects the prompt sets are composed from, by group, and sixty sentences written by hand with
what they ask for: (sentence, subject, style, treatments). A subject of None: the sentence has no
single true picture.
"""

Sentence = tuple[str, str | None, str | None, tuple[str, ...]]

SUBJECTS = {
    "animals": (
        "elephant, octopus, snail, snake, turtle, penguin, koala, camel, dolphin, frog, "
        "hamster, wolf, bear, panda, crab, lion, unicorn, eagle, duck, bat, shark, owl, fox, "
        "butterfly, deer, giraffe, zebra, hedgehog, peacock, parrot, lobster, swan, sloth, "
        "flamingo, jellyfish, honeybee, whale"
    ),
    "more animals": (
        "kangaroo, llama, hippopotamus, raccoon, gorilla, otter, t-rex, beetle, ant, rooster, "
        "goat, rhinoceros, squid, tropical fish, bird, spider, goose, beaver, skunk, bison, "
        "seal, crocodile"
    ),
    "faces": (
        "ghost, alien, skull, robot, grinning face, winking face, angry face, crying face, "
        "sleeping face, nerd face, thinking face, clown face, partying face, cowboy hat face, "
        "hot face, cold face, ogre, smiling face with sunglasses, smiling face with heart-"
        "eyes, star-struck"
    ),
    "people": (
        "santa claus, princess, man astronaut, woman astronaut, man cook, woman firefighter, "
        "man mechanic, woman scientist, detective, baby, old woman, woman dancing, person "
        "surfing, mermaid, fairy, vampire"
    ),
    "nature": (
        "rainbow, cactus, palm tree, evergreen tree, tulip, rose, sunflower, mushroom, maple "
        "leaf, potted plant, snowman, crescent moon, tornado, cloud with lightning, bouquet, "
        "umbrella, fire, star"
    ),
    "food": (
        "hot dog, taco, pizza, hamburger, watermelon, lemon, banana, pineapple, red apple, "
        "strawberry, cherries, grapes, carrot, avocado, ice cream, doughnut, cookie, birthday "
        "cake, cupcake, pancakes, bread, croissant, cheese wedge, sushi, french fries, "
        "popcorn, wine glass, beer mug, teapot, egg, lollipop"
    ),
    "vehicles": (
        "rocket, helicopter, locomotive, bus, ambulance, fire engine, police car, taxi, "
        "automobile, tractor, bicycle, sailboat, airplane, flying saucer, racing car, "
        "motorcycle, speedboat, motor scooter, skateboard, anchor"
    ),
    "places": (
        "volcano, castle, house, ferris wheel, stadium, church, hospital, tent, factory, "
        "desert island, circus tent, fountain, hut, school, japanese castle"
    ),
    "activities": (
        "guitar, violin, trumpet, drum, trophy, balloon, christmas tree, wrapped gift, teddy "
        "bear, kite, soccer ball, basketball, tennis, crystal ball, jack-o-lantern, yo-yo, "
        "magic wand, saxophone"
    ),
    "objects": (
        "candle, light bulb, key, bell, camera, television, radio, telephone, laptop, hammer, "
        "scissors, pencil, envelope, books, bed, chair, door, shield, magnet, microscope, "
        "alarm clock, bomb, money bag, treasure chest, bathtub, shopping cart, microphone, "
        "headphone, ladder, bucket"
    ),
    "clothing": (
        "crown, top hat, glasses, dress, t-shirt, jeans, backpack, high-heeled shoe, running "
        "shoe, necktie, scarf, gloves, socks, graduation cap"
    ),
}
"""Names of subjects as the art has them, more groups of those that more people ask for."""

FREEFORM: tuple[Sentence, ...] = (
    ("I'd love a picture of a happy dog in the snow", "dog face", None, ("snow",)),
    ("please draw me a cat on a polka dot background", "cat face", None, ("polka_dots",)),
    ("can you make a pizza that looks like pixel art?", "pizza", None, ("pixel_art",)),
    ("my daughter wants a unicorn under the stars", "unicorn", None, ("starry",)),
    ("a rocket flying through outer space, please", "rocket", None, ("starry",)),
    ("a robot as a neon sign for my bar", "robot", None, ("neon",)),
    ("an old photograph of a steam train", "locomotive", None, ("sepia",)),
    ("show me a castle at sunset", "castle", None, ("sunset",)),
    ("a golden trophy in a wooden frame", "trophy", None, ("golden", "wooden_frame")),
    ("a shark deep in the sea, in a glossy 3d look", "shark", "3d", ("underwater",)),
    ("I need a flat icon of a bicycle with a red border", "bicycle", "flat", ("red_frame",)),
    ("a sad cloud with lightning over a rainy city", "cloud with lightning", None, ("rain",)),
    ("the house next door on a rainy night", "house", None, ("night", "rain")),
    ("how about a spooky ghost in the moonlight", "ghost", None, ("night",)),
    ("make a pumpkin lantern that glows like fire", "jack-o-lantern", None, ("fire_glow",)),
    ("a sleepy panda in soft pastel colours for the nursery", "panda", None, ("pastel",)),
    ("a blueprint of a helicopter", "helicopter", None, ("blueprint",)),
    ("technical drawing of a guitar in a gold frame", "guitar", None, ("blueprint", "gold_frame")),
    ("a fox, but drawn in pencil", "fox", None, ("pencil",)),
    ("watercolor of a tulip for my grandmother", "tulip", None, ("watercolour",)),
    ("a butterfly in stained glass like in a church window", "butterfly", None, ("stained_glass",)),
    ("an owl in stained glass, framed in wood", "owl", None, ("stained_glass", "wooden_frame")),
    ("comic book fire engine with thick black outlines", "fire engine", None, ("comic",)),
    ("give me a sticker of an avocado", "avocado", None, ("sticker",)),
    ("a cute hedgehog sticker with dark corners", "hedgehog", None, ("sticker", "vignette")),
    ("pop art banana like Warhol would have done", "banana", None, ("pop_art",)),
    ("pop art hamburger on a striped background", "hamburger", None, ("pop_art", "stripes")),
    ("a penguin standing in a snow storm at night", "penguin", None, ("night", "snow")),
    ("the birthday cake of my dreams, all soft and blurry", "birthday cake", None, ("dreamy",)),
    ("a racing car on a checkerboard", "racing car", None, ("checkerboard",)),
    ("a taxi in the rain, black and white like film noir", "taxi", None, ("noir", "rain")),
    ("detective in black and white", "detective", None, ("noir",)),
    ("a 3d crown made of gold", "crown", "3d", ("golden",)),
    ("an alien with a digital glitch", "alien", None, ("glitch",)),
    ("a broken television, glitch art", "television", None, ("glitch",)),
    ("a skull as a photographic negative", "skull", None, ("inverted",)),
    ("everything in green light: a crocodile", "crocodile", None, ("green_tint",)),
    ("a whale in blue light", "whale", None, ("blue_tint",)),
    ("newspaper halftone print of a bear", "bear", None, ("halftone",)),
    ("a teddy bear casting a shadow", "teddy bear", None, ("drop_shadow",)),
    ("line art of a violin", "violin", "high contrast", ()),
    ("I want a plain flat icon of an airplane", "airplane", "flat", ()),
    ("just a nice red apple", "red apple", None, ()),
    ("a glossy 3d doughnut", "doughnut", "3d", ()),
    (
        "could I have a palm tree at sunset with a golden frame around it",
        "palm tree",
        None,
        ("sunset", "gold_frame"),
    ),
    ("a sailboat under a sunset sky", "sailboat", None, ("sunset",)),
    (
        "a christmas tree with lots of snow and a red frame",
        "christmas tree",
        None,
        ("snow", "red_frame"),
    ),
    ("an elephant in a spotlight", "elephant", None, ("vignette",)),
    (
        "a treasure chest at the bottom of the sea, under water",
        "treasure chest",
        None,
        ("underwater",),
    ),
    ("a tiny snail in the rain", "snail", None, ("rain",)),
    ("lion on fire", "lion", None, ("fire_glow",)),
    ("a mermaid underwater, in a flat design", "mermaid", "flat", ("underwater",)),
    ("something funny with a clown on a striped background", "clown face", None, ("stripes",)),
    (
        "a sunflower painted in watercolour and framed in wood",
        "sunflower",
        None,
        ("watercolour", "wooden_frame"),
    ),
    ("8-bit pixels dragon on a checkerboard", "dragon", None, ("pixel_art", "checkerboard")),
    ("two dogs and a cat playing chess", None, None, ()),
    ("a cosy winter evening", None, None, ("snow", "night")),
    ("something nice for my mother's birthday", None, None, ()),
    ("breakfast in bed, black and white", None, None, ("noir",)),
    ("the king of the animals wearing a crown of gold", None, None, ("golden",)),
)
