# syntax=docker/dockerfile:1
# The `rlrisk` command on CPU, as an unprivileged user.
#   docker build -t mlflow-rlrisk .
#   docker run --rm -e MLFLOW_TRACKING_URI=http://mlflow:5000 -v "$PWD:/data" mlflow-rlrisk assess models:/coder-sft/3 --prompts prompts.jsonl --verifier exact
FROM python:3.11-slim-bookworm AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
RUN python -m venv /app
COPY constraints.txt pyproject.toml README.md LICENSE ./
COPY mlflow_rlrisk ./mlflow_rlrisk
# TORCH_INDEX_URL lets the builder name PyTorch's CPU or CUDA wheel index; empty takes pip's default.
ARG TORCH_INDEX_URL=""
RUN /app/bin/pip install ${TORCH_INDEX_URL:+--extra-index-url "$TORCH_INDEX_URL"} \
    -c constraints.txt '.[hf]'

FROM python:3.11-slim-bookworm
RUN useradd --create-home --uid 10001 rlrisk && mkdir /data && chown rlrisk /data
COPY --from=build /app /app
ENV PATH=/app/bin:$PATH PYTHONUNBUFFERED=1 \
    HF_HUB_OFFLINE=1 MPLCONFIGDIR=/tmp/matplotlib
USER 10001
WORKDIR /data
HEALTHCHECK NONE
ENTRYPOINT ["rlrisk"]
CMD ["doctor"]
