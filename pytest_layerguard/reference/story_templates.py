# ruff: noqa: E501 - a template is one line, as it is one beat of a story.
"""The sentences of the stories, as templates.

``[a|b]`` is a choice; an option may be empty, and choices may nest. ``{slot}`` is filled from the
cast, which is drawn once for each story, so that names, things, colours and numbers recur in it.
``a~`` becomes ``a`` or ``an``. Another order of the templates would be another text.
"""

from typing import Final

OPENINGS: Final = (
    "Once upon a time, there was {hero_intro} [named|called] {H}. {He} lived {home}[| with {his} family]. ",
    "Once upon a time, {hero_intro} [named|called] {H} lived {home}. ",
    "Once there was {hero_intro} [named|called] {H}, who lived {home}. ",
    "{H} was {hero_intro}. {He} lived {home}. ",
    "Long ago, {home}, there lived {hero_intro} [named|called] {H}. ",
    "This is the story of {H}, {hero_intro}. ",
    "Have you heard of {H}? {H} was {hero_intro} who lived {home}. ",
    "There was once {hero_intro} whose name was {H}. {H} lived {home}. ",
    "In a land far away, {hero_intro} [named|called] {H} lived {home}. ",
    "It was still dark when {hero_intro} [named|called] {H} woke up. ",
    "Everyone {in_place} knew {H}, {hero_intro}. ",
    "{H} and {F} were best friends. {H} was {hero_intro} and {F} was {friend_intro}. ",
)

HABITS: Final = (
    "{H} loved to eat {food}. ",
    "Every day {he} went to {place} to play. ",
    "{His} best friend was {friend_intro} named {F}. ",
    "{H} had {a_thing} that {he} took everywhere. ",
    "More than anything, {H} loved {his} {colour} {thing}. ",
    "{He} liked to sit {in_place} and listen to the birds. ",
    "{H} was never [late|alone|bored|in a hurry]. ",
    "{His} house was small, but it always smelled of {dish}. ",
)

MIDDLES: Final = (
    "{weather} ",
    "{H} did not say a word. ",
    '"I am so {feeling}," {F} said to {H}. ',
    "They stopped to eat some {food}. ",
    "{H} looked at {F} and {F} looked at {H}. ",
    "A bird sang in a tree. ",
    '"Are you [tired|cold|hungry|ready]?" asked {F}. "[Not at all|A little|Yes, I am]!" said {H}. ',
    "They sang a song about {food} as they walked. ",
    "{H} took a deep breath. ",
)

PLOTS: Final = (
    # A thing is lost, asked for by its colour, and found.
    (
        "{day}, {H} could not find {his} {colour} {thing}. ",
        "{He} looked [in {his} bed|under the table|behind the door], but [it was not there|the {thing} was gone]. ",
        "[{H} began to cry. |{H} did not know what to do. |]",
        "{H} went to {place} and met {F}, {friend_intro}. ",
        '"[What is wrong|Why are you so sad|What are you looking for], {H}?" asked {F}. ',
        '"I [lost|cannot find] my {thing}," said {H}. "[What colour is it|What does it look like]?" asked {F}. "It is {colour}," said {H}. ',
        "{F} [found|saw] {a2_thing2}, but that was not [the {colour} {thing}|what {H} had lost]. ",
        "At last {F} looked {spot}, and there it was! ",
        '"[Here is your {colour} {thing}!|Look, {H}, your {thing}!|Is this your {colour} {thing}?]" [shouted|called|said] {F}. ',
        "{H} was so happy that {he} [hugged|danced with|thanked] {F}. ",
        "[From that day on, {H} always [kept|put] the {colour} {thing} in a safe place.|After that, {H} never lost {his} {thing} again.|{H} carried the {colour} {thing} home and put it under {his} pillow.] ",
    ),
    # Food is counted, shared and counted again.
    (
        "{day}, {H} [picked|found|bought] {number} {food} {in_place}. ",
        "{He} put all {number} {food} into {his} {colour} {holder}. ",
        '"These {food} are only for me," [thought|said] {H}. ',
        "On the way home {he} met {F}, {friend_intro}. {F} was very hungry. ",
        '"[May I have one|Will you share with me|Can you give me some {food}], {H}?" asked {F}. ',
        '["No," said {H}. "They are mine." {F} walked away slowly. Soon {H} felt bad. "Wait, {F}!" {he} called. |{H} thought about it for a while. ]',
        "{H} opened the {colour} {holder} and gave {F} half of the {food}. ",
        "They sat down {in_place} and ate together. ",
        '"{Food} taste better with a friend," said {H}. [{F} agreed.|{F} smiled and nodded.] ',
        "[The next day, {F} brought {H} [some {dish}|a pot of {dish}].|When they were done, not one of the {number} {food} was left.] ",
    ),
    # A storm, and somebody to be fetched out of it.
    (
        "{day}, {H} and {F} were playing {in_place} with {a_thing}. ",
        "[Suddenly|All at once] the sky became dark and a [great|terrible] storm began. ",
        "The wind took the {colour} {thing} and [carried it away|blew it into a tree]. ",
        '"[We must go home|Let us hide|Run], {H}!" [cried|shouted] {F}. ',
        "But {H} was [too afraid to move|looking for the {thing}]. ",
        "{F} took {H} by the hand and they ran to {place2}. ",
        "They waited {in_place2} until the rain stopped. {F} told {H} a funny story about a~ {kind2}. ",
        "When the sun came out again, they went back to {place}. ",
        "The {colour} {thing} was [{spot}|wet and dirty, but it was not broken]. ",
        '"[You were very brave|Thank you for staying with me], {F}," said {H}. ',
    ),
    # A thing breaks, the truth is told, the thing is mended.
    (
        "{E_cap} had {a_thing} that was very old. ",
        '"Never play with the {colour} {thing}," {E} [always said|had told {H}]. ',
        "{day}, {H} took the {thing} to {place}[ to show it to {F}|]. ",
        "[{He} tripped over a stone|{He} was not careful|{F} bumped into {him}], and the {thing} [fell and broke|broke into {number} pieces]. ",
        '"[Oh no|What have we done]!" [cried|said] {F}. "What will {E} say?" ',
        "{H} wanted to [hide the pieces {spot}|say that the wind had done it]. But {he} knew that it was wrong to lie. ",
        'So {H} went to {E} and said, "I broke your {colour} {thing}. I am sorry." ',
        '{E_cap} was [quiet for a moment|sad, but not angry]. "Thank you for telling me the truth, {H}," said {E}. ',
        "Together they mended the {thing} with [glue|thread|a piece of string]. ",
        "[It looked almost like new.|Now it was even more beautiful than before.] {H} had learned to [be careful|tell the truth]. ",
    ),
    # A gift is made for a birthday and recognised.
    (
        '{day}, {F} said, "Tomorrow is my birthday!" ',
        "{H} wanted to give {F} [a special gift|something nice], but {he} had no money. ",
        '{He} asked {E} for [help|advice]. "[The best gifts are made by hand|Give something that you love]," said {E}. ',
        "{H} worked all [night|day] and made {a_thing}. ",
        "The next day, {number} friends came to the party. {F} got {dish}, {food} and {a2_thing2}. ",
        'Then {H} gave {F} the {colour} {thing}. ["I made it for you," {he} said quietly.|{He} was afraid that {F} would not like it.] ',
        '{F} [jumped for joy|looked at it for a long time]. "[This is the best gift of all|I love my {colour} {thing}|I will keep it forever]!" said {F}. ',
        "Then all {number} friends [sang|danced|ate {dish}] until the [moon|stars] came out. ",
    ),
    # A race: boasting, a fall, and a choice.
    (
        "{day}, there was a race from {place} to {place2}. The prize was {a_thing}. ",
        "{H} wanted to win the {colour} {thing} [very much|more than anything]. So did {F}, {friend_intro}. ",
        '"I am [faster|stronger] than you," said {F}. "We will see," said {H}. ',
        '"One, two, three, go!" shouted {E}. ',
        "[{F} ran ahead and {H} came after.|{H} ran as fast as {he} could.] ",
        "But near {place2}, {F} fell and [hurt {fhis} foot|could not get up]. ",
        "{H} could see the {colour} {thing}. It was so close! But {he} stopped and [went back|turned around]. ",
        '"[Let me help you|Lean on me], {F}," said {H}. ',
        "They came to {place2} together, and they were the last. ",
        '"[You did not win the race, but you won a friend|A good heart is worth more than fast feet]," said {E}, and gave {H} the {thing}. ',
        "[{H} and {F} shared the {colour} {thing} after that.|{F} never boasted again.] ",
    ),
    # A noise in the night turns out to be something small.
    (
        "One night, {H} heard {noise} outside. ",
        '{He} [hid under the {colour2} blanket|could not sleep|sat up in bed]. "What is that?" {he} [whispered|asked]. ',
        "[{H} thought of [monsters|ghosts|wolves]. |]",
        '{He} ran to {F}, {friend_intro}, who lived next door. "I heard {noise}!" said {H}. ',
        '"[Let us go and look|We will look together]," said {F}. {F} took {a_thing}, and {H} took a lamp. ',
        "They walked [slowly|quietly] around the house. There was {noise} again! ",
        "{H} held up the lamp. It was only {source}! ",
        'They laughed [until they cried|and laughed]. "I was afraid of {source}," said {H}. ',
        '"[Things look smaller in the light|Everyone is afraid sometimes]," said {F}. ',
        "Then {F} took the {colour} {thing} and went home, and {H} slept until morning. ",
    ),
    # A new neighbour is shy until a thing is offered.
    (
        "{day}, {friend_intro} moved into the house next door. {Fhis} name was {F}. ",
        "{F} was [very shy|new in the village] and had no friends. ",
        "{H} saw {F} sitting alone {in_place} with {a_thing}. ",
        '"[Hello, I am {H}|My name is {H}]," said {H}. "[What a nice {thing}|I like your {colour} {thing}]!" ',
        "{F} looked at the ground and said [nothing|only one word]. ",
        'The next day, {H} came back with {a2_thing2} and {number} {food}. "Would you like to play with my {colour2} {thing2}?" {he} asked. ',
        '{F} smiled. "Yes, and you can play with my {thing}," said {F}. ',
        "So {H} played with the {colour} {thing} and {F} played with the {colour2} {thing2}, and they ate all {number} {food}. ",
        "[When it was dark, each of them had a new friend.|From then on, they met {in_place} every day.] ",
    ),
    # A seed, patience, and a harvest.
    (
        '{day}, {E} gave {H} a tiny seed. "It will become a {plant}," said {E}. ',
        "{H} planted the seed {in_place} and [gave it some water|covered it with soil]. ",
        "{He} waited for {number} days, but nothing happened. ",
        '"[It will never grow|My seed is dead]," said {H} sadly. {F}, {friend_intro}, said, "[Be patient|Give it time], {H}." ',
        "Every morning {H} carried water in a~ {colour} {pot}. ",
        "[Some days it rained. Some days the sun was hot. |]After {number} more days, {H} saw a little green leaf. ",
        '"[Look, {F}|Come and see, {F}]! My {plant} is growing!" {he} [shouted|called]. ',
        "The {plant} grew and grew until it was taller than {F}. ",
        "In the end, {H} put the {colour} {pot} away, because the {plant} no longer needed {him}. {H} had learned to [wait|be patient]. ",
    ),
    # Something is built, falls, and is built again together.
    (
        "{day}, {H} wanted to build a {work} {in_place}. ",
        '"I can do it alone," {he} told {F}, {friend_intro}. ',
        "{H} used {number} {part}, a rope and {a_thing}. ",
        "But [the wind blew|it began to rain|a stone was loose], and the {work} fell down. ",
        "{H} tried again, and the {work} fell down again. {He} [sat down and sighed|kicked the {colour} {thing}|was very angry]. ",
        '"[May I help you?|Two can do more than one,]" said {F}. [At first {H} said no.|{H} nodded.] Then they worked together. ',
        "{F} held the rope and {H} carried the {number} {part}. ",
        "They put the {colour} {thing} on top. This time the {work} did not fall. ",
        '"Our {work} is the best {work} in the world!" said {H}. ["Yes, because we made it together," said {F}.|{E_cap} came to see it and clapped.] ',
    ),
    # Two things with two colours change hands, and change back.
    (
        "{H} had {a_thing}, and {F}, {friend_intro}, had {a2_thing2}. ",
        '{day}, {H} said, "I am tired of my {thing}. Will you trade with me, {F}?" ',
        "So {F} took the {colour} {thing} and {H} took the {colour2} {thing2}. ",
        "At first {H} was happy with the {thing2}. {He} [showed it to {E}|took it to {place}]. ",
        "But at night {he} missed {his} {colour} {thing}. [{He} could not sleep. |]",
        'In the morning, {H} met {F} {in_place}. "I like your {colour2} {thing2}," said {H}, "but I miss my {thing}." ',
        '"And I miss my {thing2}!" said {F}. They [both laughed|looked at each other and laughed]. ',
        "Then {H} got back the {colour} {thing}, and {F} got back the {colour2} {thing2}. ",
        "[Sometimes the best thing is the one you have.|Each of them went home with the right thing.] ",
    ),
    # Three wishes, the last of them for somebody else.
    (
        '{day}, {H} caught a~ {colour} fish {in_place}. "Let me go, and you will have three wishes," said the fish. ',
        "{H} put the {colour} fish back into the water. ",
        '"First, I wish for {a2_thing2}," said {H}. [Puff! There|In a moment there] was {a2_thing2} {spot}. ',
        '"Second, I wish for {number} {food}," said {H}. [Puff! There|In a moment there] were {number} {food} next to the {colour2} {thing2}. ',
        "Then {H} saw {F}, {friend_intro}, who was [ill|cold|hungry|crying]. ",
        '{H} thought [hard|for a long time]. "Third, I wish that {F} will be well and happy," {he} said. ',
        'The {colour} fish jumped out of the water. "That was the best of your three wishes," it said, and swam away. ',
        "{H} and {F} ate the {number} {food}, and {F} was [well|happy] again. ",
    ),
    # A little one is found and brought home.
    (
        "{day}, {H} found a baby {kind2} {in_place}. It was [crying|shaking with cold], and it wore a~ {colour2} ribbon around its neck. ",
        '"Where is your mother?" asked {H}. "I do not know," said the little {kind2}. "[I went too far|I followed a butterfly]." ',
        "{H} gave it some {food} and [put {his} coat around it|dried its tears]. ",
        'They went to {place2} and asked {F}, {friend_intro}. "[Have you seen the mother of this {kind2}|Do you know this little {kind2}]?" asked {H}. ',
        '"[Yes|I think so]," said {F}. "I saw a big {kind2} {in_place3}. She was looking for her child, and she wore a~ {colour2} ribbon too." ',
        "So {H}, {F} and the little {kind2} went to {place3}. ",
        "There was the mother! She [ran to them|cried for joy] and took the little {kind2} in her arms. ",
        '"How can I thank you, {H}?" she asked. She gave {him} [{number} {food}|the {colour2} ribbon]. {H} was [proud|happy] all day. ',
    ),
    # A skill is learned after failing a counted number of times.
    (
        "{H} wanted to learn to {skill}, but {he} did not know how. ",
        '{day}, {he} asked {E}, "Can you teach me to {skill}?" "[Of course|With pleasure]," said {E}. ',
        "The first time, {H} [made a big mistake|fell on {his} nose], and {F}, {friend_intro}, laughed at {him}. ",
        '{H} tried {number} times, and {number} times it went wrong. "I will never {skill}," {he} said. ',
        '"I also tried {number} times before I could {skill}," said {E}. "Do not give up, {H}." ',
        "So {H} practised {in_place} every [morning|evening]. [{He} wore {his} {colour} {thing} for luck. |]",
        "One week later, {H} could {skill}! [{F} was surprised.|{F} stopped laughing.] ",
        '"Will you teach me {skilling} too?" asked {F}. "[Of course|Yes, I will]," said {H}. And {F} learned it from {H} {in_place}. ',
    ),
    # A key and what it opens.
    (
        '{day}, {H} found a~ {colour} key {spot}. "What does it open?" {he} [wondered|asked]. ',
        "{He} tried the key at {place}, but it did not fit. ",
        '{He} showed the {colour} key to {F}, {friend_intro}. "[Maybe it opens the door {in_place2}|Let us try {in_place2}]," said {F}. ',
        "They walked to {place2}. There they found a [little|heavy|dusty] door with a~ {colour} lock. ",
        "{H} put the key into the lock and turned it. [Click!|The door opened slowly.] ",
        "Inside were {number} {food}, a letter and {a2_thing2}. ",
        '"Whoever finds this may keep it," said the letter. It was from {E}! ',
        "{H} took the {colour2} {thing2}, and {F} took the {number} {food}. ",
        "[They locked the door again and kept the secret.|They ran to {E} and said thank you.] ",
    ),
    # Cooking for guests, with one thing missing.
    (
        "{day}, {H} wanted to make {dish} for {E}. ",
        "{He} needed [flour|milk|salt], water and {number} {food}. But there were no {food} in the house. ",
        "So {H} took {his} {colour} {holder} and went to {place}. ",
        'There {he} met {F}, {friend_intro}. "I need {number} {food} to make {dish}," said {H}. ',
        '"I have {number} {food}," said {F}. "You can have them if I may eat with you." ',
        "They carried the {food} home in the {colour} {holder} and cooked all [day|morning]. ",
        'When {E} came, the {dish} was [ready|on the table]. "[What is this wonderful smell|Who made this {dish}]?" asked {E}. ',
        '"[{F} and I|We] made it for you," said {H}. {E_cap} [ate three plates|smiled and kissed {H}]. ',
    ),
)

ENDINGS: Final = (
    "They lived happily ever after.",
    "And that was the end of [the story|a long day].",
    "The end.",
    "{H} went to bed [happy|tired and happy].",
    "That night, {H} dreamed of {place}.",
    '"What a day!" said {H}.',
    "And if you go to {place} today, you may still see {H} and {F} there.",
    "{F} and {H} stayed friends forever.",
    '"I will never forget this day," said {F}.',
    "And {H} was not [afraid|alone|sad] any more.",
    "",
)
