# syntax=docker/dockerfile:1
# Every image runs as an unprivileged user. Targets:
#   docker build --target cli -t mlflow-rlrisk .                 the `rlrisk` command
#   docker build --target mlflow -t mlflow-rlrisk-mlflow .       an MLflow server with the promotion gate; no torch
#   docker build --target service-cuda -t mlflow-rlrisk-service:cuda .   the scoring service on GPUs
#   docker build -t mlflow-rlrisk-service .                      the scoring service on CPUs
# compose.yaml puts them together. Files of yours are read and written as you; the images' own user may not:
#   docker run --rm --user "$(id -u):$(id -g)" -e MLFLOW_TRACKING_URI=http://mlflow:5000 -v "$PWD:/data" mlflow-rlrisk assess models:/coder-sft/3 --prompts prompts.jsonl --verifier exact
# The service keeps its files in a volume: relative paths would lie beside service.yaml, which it cannot write. So in service.yaml
#   database: sqlite:////data/rlrisk-service.db
#   data_dir: /data
# and a token first, for without one it serves nobody beyond its own loopback:
#   docker run --rm -v "$PWD/service.yaml:/config/service.yaml:ro" -v rlrisk:/data mlflow-rlrisk-service tokens create ci --config /config/service.yaml --scope assess --scope read
#   docker run -d -p 127.0.0.1:8787:8787 -v "$PWD/service.yaml:/config/service.yaml:ro" -v rlrisk:/data mlflow-rlrisk-service

FROM python:3.11-slim-bookworm AS sources
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
RUN python -m venv /app
COPY constraints.txt pyproject.toml README.md LICENSE ./
COPY mlflow_rlrisk ./mlflow_rlrisk
COPY service ./service

FROM sources AS build-mlflow
RUN /app/bin/pip install -c constraints.txt . 'psycopg[binary]'

FROM sources AS build-cpu
# TORCH_INDEX_URL lets the builder name PyTorch's CPU wheel index; empty takes pip's default.
ARG TORCH_INDEX_URL=""
RUN /app/bin/pip install ${TORCH_INDEX_URL:+--extra-index-url "$TORCH_INDEX_URL"} \
    -c constraints.txt '.[hf,service]'

FROM sources AS build-cuda
# pip's default build of torch for Linux brings the CUDA libraries; the host brings the driver.
RUN /app/bin/pip install -c constraints.txt '.[hf,service]'

FROM python:3.11-slim-bookworm AS base
# Volumes that are mounted onto these folders belong to the user from the start.
RUN useradd --create-home --uid 10001 rlrisk \
    && install --directory --owner=rlrisk --mode=0700 /data /keys /run/rlrisk \
    && install --directory --owner=rlrisk /ring /artifacts
ENV PATH=/app/bin:$PATH PYTHONUNBUFFERED=1 \
    HF_HUB_OFFLINE=1 MPLCONFIGDIR=/tmp/matplotlib
USER 10001
WORKDIR /data
ENTRYPOINT ["rlrisk"]
CMD ["doctor"]

FROM base AS cli
COPY --from=build-cpu /app /app
HEALTHCHECK NONE

FROM base AS mlflow
COPY --from=build-mlflow /app /app
EXPOSE 5000
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:5000/health', timeout=4)"]
ENTRYPOINT ["mlflow"]
CMD ["server", "--host", "0.0.0.0"]

FROM base AS service-cuda
COPY --from=build-cuda /app /app
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
EXPOSE 8787
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8787/livez', timeout=4)"]
CMD ["serve", "--config", "/config/service.yaml", "--host", "0.0.0.0"]

FROM base AS service
COPY --from=build-cpu /app /app
EXPOSE 8787
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8787/livez', timeout=4)"]
CMD ["serve", "--config", "/config/service.yaml", "--host", "0.0.0.0"]
