# One image, one command per service (compose.yaml).
FROM python:3.11-slim

RUN useradd --create-home --uid 10001 ledstream && mkdir /data && chown ledstream /data
WORKDIR /app
COPY requirements.lock .
RUN pip install --no-cache-dir -r requirements.lock
COPY led led
COPY stream stream
COPY store store
COPY consumers consumers
COPY serving serving
COPY training training
COPY ledstream ledstream

USER ledstream
ENV LEDSTREAM_DATA_DIR=/data PYTHONUNBUFFERED=1 OPENBLAS_NUM_THREADS=1
ENTRYPOINT ["python", "-m", "ledstream"]
CMD ["serve"]
