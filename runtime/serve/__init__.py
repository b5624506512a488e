"""An HTTP service for embeddings: ``python -m runtime.serve``, extra ``serve``. README.md has its options and clients.

    __main__.py      the command line: options, the socket, uvicorn, SIGTERM
    settings.py      what it is told, and API keys
    connection.py    a client's connection, which ends where the client does not go on
    application.py   the routes of runtime/api/, over HTTP
    middleware.py    what every request passes: CORS, key, most requests at once, errors, counts
    decoders.py      compressed bodies
    openapi.py       the request and response types of runtime/api/, for people and tools
    engine.py        model, limits, two queues
    tasks.py         what one request wants computed
    queue.py         tasks that wait, in batches across requests, and the threads that compute
    cores.py         the CPU cores that long texts leave to short ones
    metrics.py       for Prometheus
    pages.py         page.html, to try it; docs.html, the OpenAPI document to read

What a request may say and how it is answered is in runtime/api/, which the functions (runtime/handlers/) use too. Texts
that would fill a batch alone have a queue of their own, whose threads leave a core to the other's: see engine.py.
"""
