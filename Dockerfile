# One kvlog node; docker-compose.yml runs three of them. Its store is in /data: mount a volume there.
FROM python:3.11-slim

WORKDIR /app
COPY requirements.txt .
RUN pip install --no-cache-dir --disable-pip-version-check --root-user-action=ignore -r requirements.txt

RUN useradd --system --uid 10001 --no-create-home kvlog && mkdir /data && chown kvlog /data
COPY server.py .
COPY kvlog/ kvlog/

USER kvlog
# Output that is not held back: a node that is killed must have said its last word.
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
EXPOSE 5000
CMD ["python", "server.py", "--help"]
