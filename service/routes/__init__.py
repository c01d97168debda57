"""The routes, one blueprint a module: parse, call one function, return."""
