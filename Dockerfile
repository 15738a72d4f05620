# The command line on a CPU, for a user without rights:
#     docker build -t tuition .
#     docker run --rm --user "$(id -u)" -v "$PWD:/work" tuition distill --data photos --teacher onnx:big.onnx --calls 500
FROM python:3.11-slim

# uv knows where the CPU build of PyTorch is, which spares the packages for GPUs.
COPY pyproject.toml README.md LICENSE /src/
COPY src /src/src
RUN pip install --no-cache-dir "uv==0.13.*" \
    && uv pip install --system --no-cache --torch-backend=cpu "/src[onnx,postgresql,remote,transformers]" \
    && pip uninstall --yes uv \
    && rm -rf /src \
    && useradd --create-home --uid 1000 tuition \
    && chmod 777 /home/tuition \
    && install --directory --owner=tuition /work

# Caches of any --user are below this folder, and the files of runs in the mounted one.
ENV HOME=/home/tuition
USER 1000
WORKDIR /work
ENTRYPOINT ["tuition"]
CMD ["--help"]
