"""The Arrow schema of every table, one module a stage. The catalog enforces them on save and load."""

# a table is declared once, in the module of its stage

from sage_dialog.schemas.columns import *
from sage_dialog.schemas.data_processing import *
from sage_dialog.schemas.evaluation import *
from sage_dialog.schemas.imagination import *
from sage_dialog.schemas.judging import *
from sage_dialog.schemas.microworld import *
from sage_dialog.schemas.negotiation import *
from sage_dialog.schemas.offline_rl import *
from sage_dialog.schemas.reference import *
from sage_dialog.schemas.sac_augmentation import *
from sage_dialog.schemas.self_play import *
from sage_dialog.schemas.training import *
