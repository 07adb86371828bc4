"""The HTTP side: endpoints and middleware, on Starlette's interfaces."""
