"""Input-conditioned graphs of language agents, learned by REINFORCE.

The names in ``__init__.pyi`` can be imported from here; each is fetched from its module when first asked for, so
that ``import dynagent`` stays cheap.
"""

import lazy_loader

__version__ = "0.1.0"
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
