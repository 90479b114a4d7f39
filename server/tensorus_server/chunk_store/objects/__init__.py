"""A chunk store on S3, GCS, Azure or a service that speaks one of their protocols, by the library obstore."""
