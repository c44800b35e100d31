"""The page that Prometheus scrapes: a route for the control socket, and an application of its own for a TCP address.

Invariant:
- The application for TCP has this page and nothing else: nobody controls the daemon through it.
"""

from __future__ import annotations

from fastapi import FastAPI, Request, Response
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

PATH = "/metrics"


def add_page(app: FastAPI, collector: Collector) -> None:
    """Serves the collector's metrics, and those of the process, at PATH, in the format that the client asks for."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    ProcessCollector(registry=registry)

    @app.get(
        PATH, response_class=Response, responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}}
    )
    def _metrics(request: Request) -> Response:
        """The metrics, as Prometheus reads them."""
        # Not a coroutine: gathering asks for the sizes of files, and runs beside the event loop.
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(registry), headers={"content-type": content_type})


def metrics_app(collector: Collector) -> FastAPI:
    """An application with that page alone."""
    app = FastAPI(title="cdp metrics", openapi_url=None)
    add_page(app, collector)
    return app
