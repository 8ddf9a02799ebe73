"""The words that fill the slots of the stories.

Another order of the words would be another text.
"""

from typing import Final

SHE_NAMES: Final = (
    "Lily", "Mia", "Rosa", "Anna", "Ella", "Nora", "Ivy", "Clara", "Daisy", "Hazel",
    "Lulu", "Molly", "Poppy", "Ruby", "Sara", "Tilly", "Wanda", "Zoe", "Greta", "Olive",
)  # fmt: skip
HE_NAMES: Final = (
    "Tom", "Ben", "Max", "Sam", "Leo", "Jack", "Finn", "Oscar", "Hugo", "Felix",
    "Pip", "Milo", "Toby", "Rufus", "Otto", "Ned", "Emil", "Barney", "Gus", "Victor",
)  # fmt: skip

KINDS: Final = (
    "fox", "rabbit", "bear", "mouse", "cat", "dog", "duck", "frog", "hedgehog", "squirrel",
    "turtle", "owl", "goat", "pig", "lamb", "pony", "badger", "beaver", "otter", "sparrow",
)  # fmt: skip
TRAITS: Final = (
    "brave", "shy", "clever", "kind", "lazy", "curious", "cheerful", "gentle", "proud", "quiet",
    "stubborn", "friendly", "careful", "noisy", "patient", "hungry",
)  # fmt: skip

SHE_ELDERS: Final = ("Grandmother", "Aunt May", "the baker", "the old queen", "Mother", "Mrs. Bell")
HE_ELDERS: Final = ("Grandfather", "Uncle Joe", "the miller", "the old king", "Father", "Mr. Hill")

HOMES: Final = (
    "in a small house by the river", "in a hollow tree", "in a village near the sea",
    "at the edge of the forest", "on a farm", "in a cottage on the hill", "under an old bridge",
    "in a tall tower", "behind the mill", "in a quiet town", "beside a deep lake",
    "in a warm burrow",
)  # fmt: skip

COLOURS: Final = (
    "red", "blue", "green", "yellow", "orange", "purple", "white", "black", "brown", "pink",
    "silver", "golden",
)  # fmt: skip
THINGS: Final = (
    "kite", "ball", "hat", "scarf", "drum", "lantern", "basket", "boat", "bell", "box",
    "key", "umbrella", "coat", "whistle", "cup", "book", "blanket", "button", "ribbon", "spoon",
    "wagon", "apron", "bucket", "mirror",
)  # fmt: skip

PLACES: Final = (
    ("in", "the garden"), ("in", "the forest"), ("by", "the river"), ("at", "the market"),
    ("on", "the hill"), ("in", "the barn"), ("by", "the lake"), ("in", "the meadow"),
    ("under", "the bridge"), ("near", "the mill"), ("on", "the beach"), ("in", "the cave"),
    ("behind", "the school"), ("in", "the orchard"), ("at", "the old castle"), ("near", "the well"),
)  # fmt: skip
SPOTS: Final = (
    "behind a stone", "under a bush", "inside a hollow log", "between two roots",
    "on top of a wall", "in the tall grass", "next to a mushroom", "at the bottom of a hole",
    "under a pile of leaves", "in an empty nest",
)  # fmt: skip

FOODS: Final = (
    "apples", "berries", "cookies", "pancakes", "nuts", "carrots", "plums", "cherries", "pears",
    "muffins",
)  # fmt: skip
DISHES: Final = ("soup", "bread", "honey", "cake", "pie", "cheese", "jam", "porridge")
NUMBERS: Final = ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")

DAYS: Final = (
    "One day", "One morning", "One afternoon", "One sunny day", "One cold morning",
    "On a rainy day", "Early one morning", "On a windy afternoon", "One evening in autumn",
    "On the first day of spring", "One summer day", "On Monday", "On Sunday",
)  # fmt: skip
WEATHERS: Final = (
    "The sun was shining and the sky was clear.", "Dark clouds hung over the hills.",
    "A soft wind moved the leaves.", "Snow lay on the roofs.", "It was raining a little.",
    "The air smelled of flowers.", "Fog covered the fields.", "It was very hot outside.",
)  # fmt: skip
FEELINGS: Final = ("tired", "excited", "hungry", "thirsty", "cold", "surprised")
SKILLS: Final = (
    ("swim", "swimming"), ("sing", "singing"), ("dance", "dancing"), ("skate", "skating"),
    ("read", "reading"), ("climb", "climbing"), ("juggle", "juggling"), ("paint", "painting"),
    ("cook", "cooking"), ("ride", "riding"),
)  # fmt: skip
PLANTS: Final = ("rose", "pumpkin", "sunflower", "pear tree", "bean", "tulip", "melon", "plum tree")
WORKS: Final = ("bridge", "tower", "raft", "wall", "swing", "shed", "fence", "snowman")
NOISES: Final = (
    ("a tapping", "a branch that knocked against the window"),
    ("a howl", "the wind in the chimney"),
    ("a scratching", "a lost kitten at the door"),
    ("a rattle", "an old shutter in the wind"),
    ("a whisper", "two moths in the lamp"),
    ("a splash", "a fish in the rain barrel"),
    ("a squeak", "a rusty hinge"),
    ("a thump", "an apple that fell on the roof"),
)  # fmt: skip
HOLDERS: Final = ("basket", "box", "bucket", "wagon", "hat", "apron", "bag", "sack")
POTS: Final = ("bucket", "cup", "jug", "bowl", "bottle", "pot", "can")
PARTS: Final = ("stones", "boards", "sticks", "bricks", "planks")
