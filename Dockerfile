# The server in a container: docs/hosting.md. `docker build -t llm-server .`
# Both stages have the same base. To pin its very bytes, add its digest to both: docs/hosting.md says how.
FROM python:3.13.15-slim-trixie AS build
ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
RUN python -m venv --without-pip /opt/llm-server
COPY requirements/run.txt requirements/local.txt requirements/
RUN pip --python /opt/llm-server/bin/python install --require-hashes --only-binary :all: -r requirements/run.txt
# LOCAL=1 adds llama.cpp, so that GGUF files can be loaded in the process.
ARG LOCAL=""
RUN if [ -n "$LOCAL" ]; then \
        pip --python /opt/llm-server/bin/python install --require-hashes --only-binary :all: -r requirements/local.txt; \
    fi
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY src/llm_server src/llm_server
RUN pip --python /opt/llm-server/bin/python install --no-deps --no-build-isolation .

FROM python:3.13.15-slim-trixie
LABEL org.opencontainers.image.title="LLM-Server" \
      org.opencontainers.image.description="A durable task server for LLMs" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN groupadd --gid 10001 llm-server \
    && useradd --no-log-init --no-create-home --uid 10001 --gid 10001 --home-dir /var/lib/llm-server --shell /usr/sbin/nologin llm-server \
    && install -d -o 10001 -g 10001 -m 0700 /var/lib/llm-server
COPY --from=build /opt/llm-server /opt/llm-server
ENV PATH=/opt/llm-server/bin:$PATH \
    LLM_SERVER_DB=/var/lib/llm-server/tasks.db \
    PORT=8000
# A number, because Kubernetes checks `runAsNonRoot` by number.
USER 10001:10001
WORKDIR /var/lib/llm-server
VOLUME /var/lib/llm-server
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import http.client, os; c = http.client.HTTPConnection('127.0.0.1', int(os.environ['PORT']), timeout=4); c.request('GET', '/api/v1/health'); raise SystemExit(c.getresponse().status != 200)"]
ENTRYPOINT ["llm-server"]
CMD ["serve", "--host", "0.0.0.0"]
