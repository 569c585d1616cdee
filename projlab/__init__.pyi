# The public names, each with its home: the one list of them, for type checkers and __init__.py.
from projlab import nn as nn
from projlab.engine.polyhedra.projector import Multipliers as Multipliers
from projlab.engine.polyhedra.projector import NotPolishedWarning as NotPolishedWarning
from projlab.engine.polyhedra.projector import PolyhedralProjector as PolyhedralProjector
from projlab.engine.project import project as project
from projlab.engine.projector import Projector as Projector
from projlab.engine.projector import projector as projector
from projlab.engine.variants import variants as variants
from projlab.errors import AccuracyError as AccuracyError
from projlab.errors import InconsistentError as InconsistentError
from projlab.errors import InputError as InputError
from projlab.errors import MemoryLimitError as MemoryLimitError
from projlab.errors import ProjlabError as ProjlabError
from projlab.errors import RankDeficientError as RankDeficientError
from projlab.files.load import load as load
from projlab.proof.certificate import Certificate as Certificate
from projlab.proof.certificate import certify as certify
from projlab.system.constraint import AffineConstraint as AffineConstraint
from projlab.system.diagnosis import Diagnosis as Diagnosis
from projlab.system.diagnosis import diagnose as diagnose
from projlab.system.polyhedron import Polyhedron as Polyhedron
from projlab.training.expressions.expression import cat as cat
from projlab.training.expressions.expression import expr as expr
from projlab.training.handle import constrain as constrain

__version__: str
