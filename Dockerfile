# JupyterLab on the notebooks, with the locked versions and the CPU build of torch: see docs/try_it.md.
FROM python:3.11-slim

ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu

RUN useradd --create-home --uid 1000 dynagent
WORKDIR /home/dynagent/dynagent

# The packages are a layer of their own, so that a change of the code does not install them again.
COPY requirements.lock ./
RUN pip install -r requirements.lock

COPY --chown=dynagent:dynagent . .
RUN pip install --no-deps --no-build-isolation -e . && chown dynagent:dynagent .

USER 1000
EXPOSE 8888
CMD ["jupyter", "lab", "--ip=0.0.0.0", "--no-browser"]
