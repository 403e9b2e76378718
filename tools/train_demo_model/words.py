"""Word lists of the generated tasks: common words, so that most are one token of the tokenizer."""

ADJECTIVES = """
amber ancient autumn bitter bold brave bright bronze broad calm careful clever cold cool crimson
curious dark deep distant dusty eager early eastern empty faint fair famous fierce final fine
firm foreign free fresh gentle giant glad golden grand grave gray great green happy hard heavy
hidden hollow humble iron ivory jolly keen kind large late lazy light little lively local lonely
loud loyal lucky mellow merry mighty modern narrow noble northern odd old open pale patient plain
pleasant polite proud pure quick quiet rapid rare rich ripe rough round royal rural sacred scarlet
secret sharp short silent silver simple slow small smooth soft solemn solid southern spare steady
stern strange strict strong sudden sunny sweet swift tall tender thick thin tiny tired upper vast
violet warm weary western white wide wild wise wooden yellow young
""".split()

NOUNS = """
acorn anchor apple arrow badger banner barley barrel basket beacon bear bell bench bird boat book
border bottle branch bread bridge brook brush bucket button cabin camel candle canoe canyon castle
cat cedar cellar chain chair chapel cherry clock cloud coach coat comet copper coral corner cottage
cotton cow cradle crane crown cup curtain daisy dawn deer desert desk dog door dove dragon drum
eagle earth engine falcon farm feather fence fern ferry field fire fish flag flame flower flute
forest fork fountain fox frog garden gate glass glove goat goose grain grape grass hall hammer
harbor harp hat hawk hazel hedge hill honey hook horn horse house island jacket jewel judge kettle
key king kite kitten knife ladder lake lamp lantern lark leaf lemon letter library lily lion lizard
maple market marsh meadow melon mill mirror moon moss mountain mouse needle nest oak oar ocean olive
orchard otter owl paper parrot path pearl pencil pepper piano pigeon pillow pine pipe plum pond
poplar prince puppy queen rabbit raven reed ribbon ring river robin rope rose saddle sail salmon
salt school seal shadow sheep shell ship shoe shore silk spider spoon spring squirrel star stone
storm stove straw stream street sugar summer swan sword table tailor temple thread throne tiger
tower town tree trout trumpet tulip tunnel turtle valley velvet village violin wagon wall water
wheat wheel whistle willow wind window winter wolf wood wool
""".split()

# Variable names are five capital letters, as in RULER: three of the first list, two of the second.
# The two lists use different letters, and the tokenizer learns each entry as one token.
NAME_HEADS = """
BAC BEG BIH CAB CED CIF DAF DEB DIG DAL FAB FEC FID FEL GAD GEF GIB GAL HAC HEB HID HAL JAB JEC
JID JAG KAC KED KIB KAL LAB LEC LIF LEG MAB MEC MID MAF BLI BLE CLE CLI FLI FLE GLE GLI KLI KLE
ACK ABE ADI AFE AGI ALK EBI ECK EDI EFI EGI ELK IBE ICI IDI IFE
""".split()
NAME_TAILS = """
NO NU NY OX OR OT OS OZ PO PU PY QU RO RU RY SO SU SY TO TU TY UN UP UR US UT UX UZ VO VU VY WO
WU WY XO XU XY YN YO YP YR YS YT YX YZ ZO ZU ZY NT NZ RT RX SP ST TZ VR WR XT PT PR QO QY
""".split()
