"""Settings of all tests."""

import os

from hypothesis import settings

# Servers of tests are on this machine; where there is a proxy, it is not asked for them.
os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1,localhost"

settings.register_profile("patient", deadline=None)  # a busy machine is no failure
settings.load_profile("patient")
