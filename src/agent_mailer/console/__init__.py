"""What does a person see and do in a browser? Pages over a broker, which serves them; `mounting` joins the two."""
