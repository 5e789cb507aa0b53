# The broker. In a checkout of the project:
#   docker build -f packaging/broker.Dockerfile -t agent-mailer-broker .
# docker-compose.yml at the top runs it with PostgreSQL. It needs no root, writes below /data only, and runs on a
# read-only root: docker run --read-only --tmpfs /tmp --cap-drop ALL --security-opt no-new-privileges …
FROM python:3.12-slim-bookworm AS build
COPY . /usr/src/agent-mailer
RUN python -m venv /opt/agent-mailer \
 && /opt/agent-mailer/bin/pip install --no-cache-dir -c /usr/src/agent-mailer/constraints.txt \
      '/usr/src/agent-mailer[broker,postgres,metrics]'

FROM python:3.12-slim-bookworm
COPY --from=build /opt/agent-mailer /opt/agent-mailer
RUN ln -s /opt/agent-mailer/bin/agent-mailer /usr/local/bin/agent-mailer \
 && useradd --uid 10001 --user-group --no-create-home --home-dir /data mailer \
 && install -d -o mailer -g mailer -m 0700 /data /data/uploads
USER 10001:10001
WORKDIR /data
VOLUME /data
ENV PYTHONDONTWRITEBYTECODE=1 AGENT_MAILER_UPLOAD_DIR=/data/uploads
EXPOSE 9800
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s \
  CMD ["/opt/agent-mailer/bin/python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:9800/ready', timeout=4)"]
ENTRYPOINT ["agent-mailer"]
CMD ["broker", "serve", "--host", "0.0.0.0", "--data", "/data"]
