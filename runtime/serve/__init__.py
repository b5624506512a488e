"""An HTTP service for embeddings: ``python -m runtime.serve``, extra ``serve``.

    __main__.py      the command line: options, the socket, uvicorn, SIGTERM
    settings.py      what it is told, and API keys
    application.py   the routes
    front.py         what every request passes: key, most requests at once, errors, counts
    schemas.py       requests, as msgspec checks them
    openapi.py       the same for people and tools, with the model's own limits
    failures.py      errors in OpenAI's and in text-embeddings-inference's form
    engine.py        model, tokenizer, limits; from texts to work
    work.py          the texts of one request
    lane.py          work that waits, in batches across requests, and the threads that compute
    late.py          late chunking of a request's inputs
    metrics.py       for Prometheus
    page.html        a page to try it

Texts that would fill a batch alone have a lane of their own, whose threads yield to the other's: see engine.py.
"""
